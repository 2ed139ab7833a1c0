package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"agentyard.dev/services/sessions/launch"
)

const (
	probeSetup  = "setup"
	probeReport = "report"
	// probeUID stands for a session's uid when root asks what an ordinary user may do: nobody's, on every Linux.
	probeUID = 65534
	// probeTimeout is generous: each try takes some ten milliseconds.
	probeTimeout = 5 * time.Second
	// probeGuard keeps a binary that forgot MaybeInit from probing in its own probes.
	probeGuard = "AGENTYARD_SANDBOX_PROBE=1"
)

// probe tries to make sandboxes. As root the agent has a uid of its own anyway, so User says whether
// that uid may make user namespaces.
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
		c.User = c.asUser()
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
		_, err = runProbe(cmd)
	}
	if err != nil {
		c.Missing[name] = err.Error()
	}
	return err == nil
}

// asUser asks a child that is not root what it may do.
func (c *Capabilities) asUser() bool {
	arg, _ := json.Marshal(config{Probe: probeReport})
	cmd := exec.Command("/proc/self/exe", initVerb, string(arg))
	cmd.Env = []string{probeGuard}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Pdeathsig: syscall.SIGKILL,
		Credential: &syscall.Credential{Uid: probeUID, Gid: probeUID},
	}
	out, err := runProbe(cmd)
	var user Capabilities
	if err == nil {
		err = json.Unmarshal(out, &user)
	}
	switch {
	case err != nil:
		c.Missing[User] = err.Error()
	case !user.PID: // a user namespace alone is of no use
		c.Missing[User] = strings.TrimSpace(user.Missing[User] + " " + user.Missing[Mount] + " " + user.Missing[PID])
	}
	return err == nil && user.PID
}

// printProbe is the other end of asUser.
func printProbe() int {
	_ = os.Unsetenv("AGENTYARD_SANDBOX_PROBE")
	if err := json.NewEncoder(os.Stdout).Encode(probe()); err != nil {
		return 1
	}
	return 0
}

func runProbe(cmd *exec.Cmd) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		if text := strings.TrimSpace(strings.TrimPrefix(errs.String(), "sandbox: ")); text != "" {
			return nil, fmt.Errorf("%s", text)
		}
		return nil, err
	}
	return out.Bytes(), nil
}
