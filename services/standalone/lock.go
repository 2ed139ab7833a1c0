package standalone

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// lock takes the data directory for this process alone. The kernel gives it up when the
// process ends, however it ends; a child does not inherit it (O_CLOEXEC).
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			holder := make([]byte, 16)
			n, _ := f.Read(holder)
			return nil, fmt.Errorf("%s is in use by another agentyard (process %s); stop it, or choose another directory with --data",
				dir, strings.TrimSpace(string(holder[:n])))
		}
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	// For the message above only: whether the lock is held does not depend on it.
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return func() { _ = f.Close() }, nil
}
