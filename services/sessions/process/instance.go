package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// instance is one runner, as its instance file keeps it.
type instance struct {
	Tenant      string `json:"tenant"`
	Session     string `json:"session"`
	Incarnation int    `json:"incarnation"`
	PID         int    `json:"pid"`
	Started     string `json:"started"` // tells the process from a later one of the same id
	Socket      string `json:"socket,omitempty"`
	Cgroup      string `json:"cgroup,omitempty"`
	Address     string `json:"address,omitempty"` // of its own network
	Ended       bool   `json:"ended,omitempty"`

	seen bool // it ran when this process began to watch it, or was started by it
}

const instanceFile = "instance.json"

func readInstance(dir string) (*instance, error) {
	data, err := os.ReadFile(filepath.Join(dir, instanceFile))
	if err != nil {
		return nil, err
	}
	var i instance
	if err := json.Unmarshal(data, &i); err != nil {
		return nil, fmt.Errorf("%s: %w", instanceFile, err)
	}
	if i.Session != filepath.Base(dir) || i.PID <= 1 {
		return nil, fmt.Errorf("%s is of another session", instanceFile)
	}
	return &i, nil
}

// write replaces the instance file: a reader finds the old or the new one. After a crash of the machine no runner runs, so nothing is synced.
func (i *instance) write(dir string) error {
	data, err := json.Marshal(i)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, instanceFile+".new")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, instanceFile))
}

const (
	terminate = syscall.SIGTERM
	kill      = syscall.SIGKILL
)

// signal signals the runner, if it is still the process that was started; to be killed is its whole process group.
func (i *instance) signal(sig syscall.Signal) {
	if now, err := startedAt(i.PID); err != nil || now != i.Started {
		return
	}
	pid := i.PID
	if sig == kill {
		pid = -pid
	}
	_ = syscall.Kill(pid, sig) // gone is as good
}

// pollEvery is how often a process is looked at where its end cannot be waited for.
const pollEvery = 100 * time.Millisecond

// poll waits until the process is gone or a zombie, and reports false when ctx ends first.
func (i *instance) poll(ctx context.Context) bool {
	for {
		if now, err := startedAt(i.PID); err != nil || now != i.Started || zombie(i.PID) {
			return true
		}
		i.seen = true
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pollEvery):
		}
	}
}

var errNoProcess = errors.New("no such process")
