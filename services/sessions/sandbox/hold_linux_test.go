package sandbox_test

import (
	"context"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/sandbox"
	"agentyard.dev/services/sessions/sandbox/sandboxtest"
)

// TestHold: nothing passes in a network that is held, until the node's agent or, when it has been waited for long enough, Open itself sets the link up.
func TestHold(t *testing.T) {
	if !sandboxtest.OwnNetwork(t, time.Minute) {
		return
	}
	reaches := func(n *sandbox.Network, within time.Duration) bool {
		t.Helper()
		l, err := net.Listen("tcp4", "10.9.8.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return n.Do(func() error {
			conn, err := net.DialTimeout("tcp4", l.Addr().String(), within)
			if err == nil {
				err = conn.Close()
			}
			return err
		}) == nil
	}
	links := func() string {
		t.Helper()
		out, err := exec.Command("ip", "-o", "link", "show", "type", "veth").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	held := func(address string) *sandbox.Network {
		t.Helper()
		n, err := sandbox.MakeNetwork(launch.Network{Address: address, Gateway: "10.9.8.1", Hold: api.Duration(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Close)
		return n
	}

	n := held("10.9.8.2")
	if reaches(n, 200*time.Millisecond) {
		t.Error("packets pass before the network is open")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if byAgent, err := n.Open(ctx); err != nil || byAgent {
		t.Errorf("opened by the agent: %t, %v", byAgent, err)
	}
	if !reaches(n, 20*time.Second) { // the kernel asks for the neighbour's address once a second
		t.Error("nothing passes although the network is open")
	}

	n = held("10.9.8.3")
	opened := make(chan bool, 1)
	go func() {
		byAgent, err := n.Open(t.Context())
		if err != nil {
			t.Error(err)
		}
		opened <- byAgent
	}()
	for line := range strings.Lines(links()) { // what the agent does
		_, rest, _ := strings.Cut(line, ": ")
		name, _, _ := strings.Cut(rest, "@")
		if !strings.Contains(line, "alias "+api.TrafficLinkAlias+"/proc/") {
			t.Errorf("it does not say whose it is: %s", line)
		}
		if out, err := exec.Command("ip", "link", "set", name, "up").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if !<-opened {
		t.Error("the agent set it up, and it is not said so")
	}
	if !reaches(n, 20*time.Second) {
		t.Error("nothing passes although the network is open")
	}
}
