package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"agentyard.dev/services/sessions/launch"
)

const (
	probeSetup = "setup"
	// probeUID stands for a session's uid when root tries: nobody's, on every Linux.
	probeUID = 65534
	// probeTimeout is generous: each try takes some ten milliseconds.
	probeTimeout = 5 * time.Second
	// probeGuard keeps a binary that forgot MaybeInit from probing in its own probes.
	probeGuard = "AGENTYARD_SANDBOX_PROBE=1"
)

// probe tries to make sandboxes.
func probe() Capabilities {
	c := Capabilities{Missing: map[string]string{}}
	if os.Getenv("AGENTYARD_SANDBOX_PROBE") != "" {
		return c
	}
	if os.Geteuid() == 0 {
		c.UID = c.try(UID, launch.Sandbox{Isolation: []string{UID, Mount}, UID: probeUID, GID: probeUID})
		c.Mount = c.UID
		c.PID = c.UID && c.try(PID, launch.Sandbox{Isolation: []string{UID, Mount, PID}, UID: probeUID, GID: probeUID})
		if !c.Mount {
			c.Missing[Mount] = c.Missing[UID]
		}
		c.Missing[User] = "root gives each session a user id of its own instead"
	} else {
		c.Missing[UID] = "only root can give each session a user id of its own"
		c.User = c.try(User, launch.Sandbox{Isolation: []string{User}})
		c.Mount = c.User && c.try(Mount, launch.Sandbox{Isolation: []string{User, Mount}})
		c.PID = c.Mount && c.try(PID, launch.Sandbox{Isolation: []string{User, Mount, PID}})
		if !c.Mount && c.Missing[Mount] == "" {
			c.Missing[Mount] = "needs user isolation"
		}
	}
	if !c.PID && c.Missing[PID] == "" {
		c.Missing[PID] = "needs mount isolation"
	}
	limits, err := probeCgroup()
	if c.Cgroup = limits; err != nil {
		c.Missing[Cgroup] = err.Error()
	}
	return c
}

// try makes a sandbox with spec and reports whether that went well, or notes why not.
func (c *Capabilities) try(name string, spec launch.Sandbox) bool {
	cmd, err := command(config{Sandbox: spec, Probe: probeSetup}, []string{probeGuard})
	if err == nil {
		err = runProbe(cmd)
	}
	if err != nil {
		c.Missing[name] = err.Error()
	}
	return err == nil
}

func runProbe(cmd *exec.Cmd) error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		if text := strings.TrimSpace(strings.TrimPrefix(errs.String(), "sandbox: ")); text != "" {
			return fmt.Errorf("%s", text)
		}
		return err
	}
	return nil
}
