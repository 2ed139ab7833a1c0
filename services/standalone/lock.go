package standalone

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// lockPatience is how long lock waits for a lock that another holds. A process that is killed while it starts another leaves that one the lock until
// it has begun its own program: whoever starts a yard again at once would meet it.
const lockPatience = 3 * time.Second

// lock takes the data directory for this process alone. The kernel gives it up when the process ends, however it ends, and what it was about to start
// has begun (O_CLOEXEC).
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := take(ctx, f); err != nil {
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

func take(ctx context.Context, f *os.File) error {
	const again = 20 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}
