package tcagent_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
