package sandboxtest

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// OwnNetwork runs a test again as a process in a network namespace of its own, of which only the loopback is up. It reports true there, and false where the
// test has then run already, and has failed if it failed there or not ended in time.
func OwnNetwork(t *testing.T, within time.Duration) bool {
	t.Helper()
	const inner = "SANDBOXTEST_NETWORK"
	if os.Getenv(inner) == t.Name() {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces")
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inner+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}
