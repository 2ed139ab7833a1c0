package tcagent_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel/kerneltest"
	"agentyard.dev/services/tcagent"
)

// TestNewInterface: an interface that a runtime leaves down has the default plan before packets pass, and they pass when the session's own plan is in force.
func TestNewInterface(t *testing.T) {
	y := newYard(t)
	file := filepath.Join(t.TempDir(), "default.yaml")
	must(t, os.WriteFile(file, []byte("name: default\nlink: {download: {ceiling: 2Mbit}, upload: {ceiling: 2Mbit}}\nlimits: {download: {packets_per_second: 900}}\n"), 0o600))
	y.config.Default = file
	y.agent(nil)
	there := y.lab.Node.AddSession(t, "h4") // of another runtime: nobody says whose it is
	s := y.lab.Node.AddSession(t, "h5")
	s.AddAddress(t, "10.99.0.35/24")
	y.lab.Node.Hold(t, s, api.TrafficLinkAlias)
	y.lab.Node.Alias(t, there.Host, api.TrafficLinkAlias+"/proc/self/fd/0") // which is no namespace (any more)
	y.becomes("h5", 2*tc.Mbit)
	if y.lab.Node.Up(t, "h5") {
		t.Error("packets pass before the session's own plan is there")
	}
	if got := y.rate(there.Host); got != 0 {
		t.Errorf("an interface that is not said to be a session's has %v", got)
	}
	_, hash := y.plan("s5", "10.99.0.35", shaped("s5", 7*tc.Mbit))
	y.applied("s5", hash)
	y.becomes("h5", 7*tc.Mbit)
	y.until(func() (bool, string) { return y.lab.Node.Up(t, "h5"), "the link is down" })
	if tables := kerneltest.Tables(t, y.lab.Node); strings.Contains(tables, "default") {
		t.Errorf("limits of the default plan are left: %s", tables)
	}

	// Nothing limits this one, which is a plan too.
	s = y.lab.Node.AddSession(t, "h6")
	s.AddAddress(t, "10.99.0.36/24")
	y.lab.Node.Hold(t, s, api.TrafficLinkAlias)
	y.becomes("h6", 2*tc.Mbit)
	y.plan("s6", "10.99.0.36", &tc.Plan{Format: tc.PlanFormat, Session: "s6", Mode: tc.Off})
	y.becomes("h6", 0)
	y.until(func() (bool, string) { return y.lab.Node.Up(t, "h6"), "the link is down" })
}

// pods is a container runtime that is told what it says.
type pods struct {
	mu    sync.Mutex
	list  []tcagent.Pod
	err   error
	asked int
}

func (p *pods) Pods(context.Context) ([]tcagent.Pod, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	return p.list, p.err
}

func (p *pods) say(err error, list ...tcagent.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list, p.err = list, err
}

// TestPods: an agent that is told of pods puts the default plan on those of sessions that come, and on no other's; it finds their interfaces by what the runtime says, and without it as well.
func TestPods(t *testing.T) {
	y := newYard(t)
	file := filepath.Join(t.TempDir(), "default.yaml")
	must(t, os.WriteFile(file, []byte("name: default\nlink: {download: {ceiling: 2Mbit}}\n"), 0o600))
	y.config.Default = file
	runtime := &pods{}
	y.runtime = runtime
	address := func(text string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(text)} }
	session := map[string]string{api.PodLabel: "x"}
	before := tcagent.Pod{ID: "before", Labels: session, Addresses: address(kerneltest.Session4), PID: y.lab.Session.Inhabit(t)}
	runtime.say(nil, before)
	y.agent(nil)
	y.until(func() (bool, string) {
		runtime.mu.Lock()
		defer runtime.mu.Unlock()
		return runtime.asked > 0, "nobody asks"
	})
	other, s := y.lab.Node.AddSession(t, "h4"), y.lab.Node.AddSession(t, "h5")
	s.AddAddress(t, "10.99.0.35/24")
	listed := time.Now()
	runtime.say(nil, before, tcagent.Pod{ID: "other", PID: other.Inhabit(t)}, tcagent.Pod{ID: "new", Labels: session, Addresses: address("10.99.0.35"), PID: s.Inhabit(t)})
	y.becomes("h5", 2*tc.Mbit)
	t.Logf("the default plan was in force %v after the runtime listed the pod", time.Since(listed))
	for _, device := range []string{"h0", "h4"} {
		if got := y.rate(device); got != 0 {
			t.Errorf("%s, which is another's or was there before the agent, has %v", device, got)
		}
	}
	_, hash := y.plan("s5", "10.99.0.35", shaped("s5", 7*tc.Mbit))
	y.applied("s5", hash)
	y.becomes("h5", 7*tc.Mbit)
	runtime.say(errors.New("it was stopped"))
	_, hash = y.plan("s1", kerneltest.Session4, shaped("s1", 3*tc.Mbit))
	y.applied("s1", hash)
	y.becomes("h0", 3*tc.Mbit)
}

// TestDefaultPolicy: an agent whose default policy cannot be used does not begin.
func TestDefaultPolicy(t *testing.T) {
	server, ring := bustest.New(t)
	conn := bustest.ConnectNode(t, server, ring, "n1")
	for text, want := range map[string]string{
		"name: default\nlink: {upload: {ceiling: 2Mbps}}\n":                            "2Mbps",
		"name: default\napplies_to: {users: [u1]}\nlink: {upload: {ceiling: 2Mbit}}\n": "applies_to",
	} {
		file := filepath.Join(t.TempDir(), "default.yaml")
		must(t, os.WriteFile(file, []byte(text), 0o600))
		err := tcagent.New(tcagent.Config{Node: "n1", Default: file}, tcagent.Deps{Bus: conn}).Run(context.Background())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
