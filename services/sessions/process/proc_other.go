//go:build !linux

package process

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// psTimeout bounds one call of ps.
const psTimeout = 5 * time.Second

// startedAt returns when a process started, as ps(1) says.
func startedAt(pid int) (string, error) {
	return ps(pid, "lstart=")
}

func zombie(pid int) bool {
	state, err := ps(pid, "state=")
	return err == nil && strings.HasPrefix(state, "Z")
}

func ps(pid int, column string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), psTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ps", "-o", column, "-p", strconv.Itoa(pid)).Output()
	text := strings.TrimSpace(string(out))
	if err != nil || text == "" {
		return "", errNoProcess
	}
	return text, nil
}

func (i *instance) wait(ctx context.Context) bool { return i.poll(ctx) }
