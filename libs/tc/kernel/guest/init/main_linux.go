// Command init is the first process of the machine that package guest emulates: it loads modules, runs the tests and switches the machine off.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	code := 1
	if err := prepare(); err != nil {
		fmt.Println("guest:", err)
	} else {
		code = test()
	}
	fmt.Printf("\nguest: exit %d\n", code)
	unix.Sync()
	// -no-reboot makes the emulator end instead, which it does not do for a machine without a power switch that is switched off.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func prepare() error {
	for at, kind := range map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs", "/tmp": "tmpfs"} {
		if err := unix.Mount(kind, at, kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", at, err)
		}
	}
	order, err := os.ReadFile("/modules/order")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(order)) {
		if err := load("/modules/" + name); err != nil {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return os.MkdirAll("/dev/net", 0o755)
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func test() int {
	arguments, err := os.ReadFile("/arguments")
	if err != nil {
		fmt.Println("guest:", err)
		return 1
	}
	cmd := exec.Command("/test", strings.Fields(string(arguments))...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = os.Stdout, os.Stdout, "/tmp"
	cmd.Env = []string{"HOME=/tmp", "TMPDIR=/tmp"}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	case err != nil:
		fmt.Println("guest:", err)
		return 1
	}
	return 0
}
