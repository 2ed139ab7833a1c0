package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// agentMain is the test binary as an agent that tries to break out. It prints "escaped: …" for what it should not
// have been able to do, and a last line "done" so that silence is no success.
func agentMain(verb string, args []string) int {
	escaped := func(format string, a ...any) { fmt.Printf("escaped: "+format+"\n", a...) }
	switch verb {
	case "spy": // spy RUNNER-PID SECRET: processes
		pid, _ := strconv.Atoi(args[0])
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		fmt.Println("sees", len(dirs))
		for _, d := range append(dirs, "/proc/"+args[0]) {
			if filepath.Base(d) == strconv.Itoa(os.Getpid()) {
				continue
			}
			for _, f := range []string{"environ", "cmdline"} {
				if data, _ := os.ReadFile(d + "/" + f); f == "environ" && bytes.Contains(data, []byte(args[1])) {
					escaped("read %s/%s", d, f)
				}
			}
			if f, err := os.OpenFile(d+"/mem", os.O_RDWR, 0); err == nil {
				escaped("opened %s", f.Name())
			}
		}
		for _, p := range []int{pid, 1} {
			if err := syscall.PtraceAttach(p); err == nil {
				escaped("traces %d", p)
			}
			if fd, err := unix.PidfdOpen(p, 0); err == nil {
				if _, err := unix.PidfdGetfd(fd, 0, 0); err == nil {
					escaped("took a descriptor of %d", p)
				}
			}
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err == nil {
			escaped("signalled the runner")
		}
		_ = syscall.Kill(1, syscall.SIGKILL) // the kernel protects the namespace's init
		fmt.Println("alive")
	case "files": // files SECRET PATH…: none may be readable, no system place writable
		for _, p := range args[1:] {
			data, _ := os.ReadFile(p)
			if bytes.Contains(data, []byte(args[0])) {
				escaped("read %s", p)
			}
			for _, via := range []string{"/proc/1/root", "/proc/self/root"} {
				if data, _ := os.ReadFile(via + p); bytes.Contains(data, []byte(args[0])) {
					escaped("read %s%s", via, p)
				}
			}
			_ = os.WriteFile(filepath.Join(filepath.Dir(p), "planted"), nil, 0o600)
		}
		for _, d := range []string{"/", "/usr", "/etc", "/dev", "/run", "/sys/fs/cgroup/pids", "/proc/sys/kernel"} {
			if err := os.WriteFile(d+"/planted", nil, 0o600); err == nil {
				escaped("wrote in %s", d)
			}
		}
	case "mounts", "nested": // mounts SECRET HIDDEN-DIR: uncover what is covered
		hidden := args[1]
		for _, d := range []string{hidden, "/run", "/dev", "/proc", "/tmp", "/"} {
			for _, flags := range []int{0, unix.MNT_DETACH, unix.MNT_FORCE} {
				if err := unix.Unmount(d, flags); err == nil {
					escaped("%s: unmounted %s", verb, d)
				}
			}
			if err := unix.Mount("", d, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err == nil && d != "/proc" {
				escaped("%s: remounted %s", verb, d)
			}
			_ = unix.MountSetattr(unix.AT_FDCWD, d, unix.AT_RECURSIVE, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
		}
		// A copy of the tree shows what the tree shows.
		if fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE); err == nil {
			for range 3 {
				_ = unix.Unmount(fmt.Sprintf("/proc/self/fd/%d%s", fd, hidden), unix.MNT_DETACH)
			}
			if data, _ := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d%s/secret", fd, hidden)); bytes.Contains(data, []byte(args[0])) {
				escaped("%s: read through a copy", verb)
			}
		}
		if err := os.WriteFile("/usr/planted", nil, 0o600); err == nil {
			escaped("%s: wrote in /usr", verb)
		}
		if data, _ := os.ReadFile(hidden + "/secret"); bytes.Contains(data, []byte(args[0])) {
			escaped("%s: read the secret", verb)
		}
		for _, ns := range []string{"mnt", "user", "pid"} {
			if fd, err := os.Open("/proc/1/ns/" + ns); err == nil && unix.Setns(int(fd.Fd()), 0) == nil {
				escaped("%s: entered init's %s namespace", verb, ns)
			}
		}
		if verb == "mounts" { // again as root of a user namespace inside
			cmd := exec.Command(os.Args[0], "agent", "nested", args[0], hidden)
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
			}
			fmt.Println("nested:", cmd.Run())
		}
	case "privileges":
		data, _ := os.ReadFile("/proc/self/status")
		for _, line := range strings.Split(string(data), "\n") {
			name, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			switch {
			case strings.HasPrefix(name, "Cap") && strings.Trim(value, "0") != "", name == "NoNewPrivs" && value != "1":
				escaped("%s is %s", name, value)
			}
		}
		fmt.Println("uid", os.Getuid(), os.Geteuid(), os.Getgid())
		for range [2]int{} {
			if syscall.Setuid(0) == nil && os.Getuid() != 0 {
				escaped("became root")
			}
		}
		var rlim unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NPROC, &rlim)
		fmt.Println("environment", os.Environ())
	case "bomb": // how many processes can it have at once?
		n := 0
		for ; n < 400; n++ {
			cmd := exec.Command("/bin/sleep", "60")
			if cmd.Start() != nil {
				break
			}
		}
		fmt.Println("started", n)
	case "daemon": // daemon MARK: leaves a detached process behind and waits, or exits at once with a second argument
		for range 2 {
			cmd := exec.Command(os.Args[0], "agent", "linger", args[0])
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := cmd.Start(); err != nil {
				fmt.Println(err)
			}
		}
		if len(args) > 1 {
			break
		}
		fmt.Println("ready")
		select {}
	case "linger":
		signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
		if os.Getenv("DETACHED") == "" { // once more, so that the parent is gone
			cmd := exec.Command(os.Args[0], os.Args[1:]...)
			cmd.Env = append(os.Environ(), "DETACHED=1")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			_ = cmd.Start()
			return 0
		}
		ch := make(chan os.Signal, 1)
		signal.Notify(ch, syscall.SIGUSR1)
		<-ch
	case "eat": // eat BYTES
		n, _ := strconv.Atoi(args[0])
		block := make([]byte, n)
		for i := 0; i < n; i += 4096 {
			block[i] = 1
		}
		fmt.Println("ate", len(block))
	case "signals":
		ch := make(chan os.Signal, 4)
		signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT)
		fmt.Println("ready")
		for s := range ch {
			fmt.Println("got", s)
			if s == syscall.SIGTERM {
				return 7
			}
		}
	}
	fmt.Println("done")
	return 0
}
