// Command guest runs tests of package kernel on a whole Debian kernel, which has what the kernels of test machines often lack (fq_codel, netem, sfq): in an emulated
// machine whose clock counts instructions, so that rates come out the same however busy the machine around it is.
//
//	go run ./libs/tc/kernel/guest            # make test-guest
//	go run ./libs/tc/kernel/guest -run Netem
//
// It needs QEMU, and apt-get, which downloads the kernel's package (27 MB, kept in the user's cache); nothing is installed, and no privileges are needed.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// modules are loaded with all that they depend on; what is built in is passed over.
var modules = strings.Fields(`veth ifb tun sch_htb sch_ingress sch_fq_codel sch_sfq sch_netem cls_u32 cls_bpf act_mirred
	nf_tables nf_conntrack nft_ct nft_connlimit nft_limit nfnetlink af_packet`)

// tests are those that make sense there: those that only this kernel can do, and those whose subject is what it does otherwise.
const tests = "Guest|Probe|TestApply|Foreign|Queues|Match|Failure|Orphan|Shares|PacketRate|ConnectionRate|FaultLoses|Ease"

// limit is how long the machine may run: it takes about a minute.
const limit = 15 * time.Minute

func main() {
	run := flag.String("run", tests, "run only tests that match this `expression`")
	check := flag.Bool("check", false, "only say whether the machine can run here; the kernel is downloaded if it is not there yet")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	var err error
	if *check {
		_, err = available(ctx)
	} else {
		err = boot(ctx, *run)
	}
	stop()
	if *check && err != nil {
		fmt.Println(err) // the reason is the answer
		os.Exit(1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func boot(ctx context.Context, tests string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	root, err := available(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "guest-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	const here = "agentyard.dev/libs/tc/kernel"
	env := append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	for _, args := range [][]string{
		{"build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "init"), here + "/guest/init"},
		{"test", "-c", "-tags", "guest", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "test"), here},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env, cmd.Stdout, cmd.Stderr = env, os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("go %s: %w", args[0], err)
		}
	}
	initrd := filepath.Join(dir, "initrd")
	if err := writeInitrd(initrd, root, dir, "-test.v -test.timeout=10m -test.run="+tests); err != nil {
		return err
	}
	kernels, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("the package has %d kernels: %w", len(kernels), err)
	}
	return emulate(ctx, kernels[0], initrd)
}

const qemu = "qemu-system-x86_64"

// emulate runs the machine, shows what it says, and finds in it how the tests ended.
func emulate(ctx context.Context, kernel, initrd string) error {
	cmd := exec.CommandContext(ctx, qemu, "-machine", "microvm,isa-serial=on", "-accel", "tcg,thread=single", "-icount", "shift=2,sleep=off", "-cpu", "max",
		"-m", "768", "-nodefaults", "-no-user-config", "-no-reboot", "-nographic", "-serial", "stdio", "-kernel", kernel, "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check cryptomgr.notests random.trust_cpu=on")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &said), os.Stderr
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", qemu, err)
	}
	end := regexp.MustCompile(`(?m)^guest: exit (\d+)`).FindSubmatch(said.Bytes())
	switch {
	case end == nil:
		return errors.New("the machine stopped before the tests ended")
	case string(end[1]) != "0":
		return errors.New("tests failed")
	case !bytes.Contains(said.Bytes(), []byte("--- PASS: TestGuest")):
		return errors.New("no test of the guest's own ran")
	}
	fmt.Printf("ok  \tthe tests on Debian's kernel, in a machine that ran for %v\n", time.Since(began).Round(time.Second)) // as go test says it
	return nil
}

// available returns where the kernel is, or what is missing here.
func available(ctx context.Context) (root string, err error) {
	if _, err := exec.LookPath(qemu); err != nil {
		return "", errors.New("QEMU is missing: run .ci/test-deps guest")
	}
	if root, err = kernelPackage(ctx); err != nil {
		return "", fmt.Errorf("Debian's kernel for virtual machines cannot be had: %w", err)
	}
	return root, nil
}

// kernelPackage returns where Debian's kernel for virtual machines is unpacked.
func kernelPackage(ctx context.Context) (root string, err error) {
	output := func(dir, name string, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir, cmd.Stderr = dir, os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("%s %s: %w", name, args[0], err)
		}
		return string(out), nil
	}
	depends, err := output("", "apt-cache", "depends", "linux-image-cloud-amd64")
	if err != nil {
		return "", err
	}
	name := regexp.MustCompile(`Depends: (linux-image-\S+)`).FindStringSubmatch(depends)
	if name == nil {
		return "", errors.New("apt knows no linux-image-cloud-amd64; run apt-get update on Debian")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "agentyard-guest")
	root = filepath.Join(cache, name[1])
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := os.Chmod(tmp, 0o777); err != nil { // apt-get downloads as another user
		return "", err
	}
	fmt.Fprintln(os.Stderr, "downloading", name[1])
	if _, err := output(tmp, "apt-get", "download", name[1]); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("apt-get downloaded %d packages: %w", len(debs), err)
	}
	if _, err := output(tmp, "dpkg-deb", "-x", debs[0], filepath.Join(tmp, "root")); err != nil {
		return "", err
	}
	return root, os.Rename(filepath.Join(tmp, "root"), root)
}
