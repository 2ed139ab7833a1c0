package sandbox

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
)

func TestBounds(t *testing.T) {
	t.Run("a fork bomb stops at the limit", func(t *testing.T) {
		spec := session(t, openDir(t))
		spec.Resources.Processes = 40
		out, _ := run(t, spec, self(t, "bomb")...)
		n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(strings.SplitN(out, "\n", 2)[0], "started ")))
		if err != nil || n < 5 || n > 40 {
			t.Errorf("started %d processes (%v):\n%s", n, err, out)
		}
	})
	if Probe().Cgroup.Version == 0 {
		t.Logf("no cgroups here: %s", Probe().Missing[Cgroup])
		return
	}
	grouped := func(t *testing.T, r api.Resources) (launch.Sandbox, *Group) {
		spec := session(t, openDir(t))
		g, err := MakeGroup("agentyard-test-"+strconv.Itoa(os.Getpid()), r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := g.Remove(context.Background()); err != nil {
				t.Error(err)
			}
		})
		spec.Isolation = append(spec.Isolation, Cgroup)
		spec.Cgroup = g.String()
		return spec, g
	}
	t.Run("a cgroup bounds processes", func(t *testing.T) {
		spec, _ := grouped(t, api.Resources{Processes: 40})
		out, _ := run(t, spec, self(t, "bomb")...)
		n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(strings.SplitN(out, "\n", 2)[0], "started ")))
		if err != nil || n < 5 || n > 40 {
			t.Errorf("started %d processes (%v):\n%s", n, err, out)
		}
	})
	t.Run("a cgroup bounds memory", func(t *testing.T) {
		spec, _ := grouped(t, api.Resources{MemoryBytes: 64 << 20})
		if out, status := run(t, spec, self(t, "eat", "268435456")...); strings.Contains(out, "ate") || status == 0 {
			t.Errorf("status %d:\n%s", status, out)
		}
		if out, status := run(t, spec, self(t, "eat", "1048576")...); !strings.Contains(out, "ate") || status != 0 {
			t.Errorf("a small one: status %d:\n%s", status, out)
		}
	})
	t.Run("removing a cgroup kills what is in it", func(t *testing.T) {
		spec, g := grouped(t, api.Resources{Processes: 100})
		spec.Isolation = []string{Cgroup}
		mark := fmt.Sprintf("mark-%d-cgroup", os.Getpid())
		cmd, lines := start(t, spec, self(t, "daemon", mark)...)
		waitLine(t, lines, "ready")
		_ = cmd.Process.Signal(syscall.SIGSTOP)
		if err := FindGroup(g.String()).Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		waitGone(t, mark)
	})
}
