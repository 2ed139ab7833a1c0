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
	reaches := func(n *sandbox.Network, gateway string, within time.Duration) bool {
		t.Helper()
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		return n.Do(func() error {
			conn, err := net.DialTimeout("tcp", net.JoinHostPort(gateway, port), within)
			if err == nil {
				err = conn.Close()
			}
			return err
		}) == nil
	}
	gateways := []string{"10.9.8.1", "fd00:9:8::1"}
	links := func() string {
		t.Helper()
		out, err := exec.Command("ip", "-o", "link", "show", "type", "veth").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	held := func(end string) *sandbox.Network {
		t.Helper()
		n, err := sandbox.MakeNetwork(launch.Network{
			Address: "10.9.8." + end, Gateway: gateways[0], Address6: "fd00:9:8::" + end, Gateway6: gateways[1], Hold: api.Duration(time.Minute),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Close)
		return n
	}

	n := held("2")
	for _, gateway := range gateways {
		if reaches(n, gateway, 200*time.Millisecond) {
			t.Errorf("packets to %s pass before the network is open", gateway)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if byAgent, err := n.Open(ctx); err != nil || byAgent {
		t.Errorf("opened by the agent: %t, %v", byAgent, err)
	}
	for _, gateway := range gateways {
		if !reaches(n, gateway, 20*time.Second) { // the kernel asks for the neighbour's address once a second
			t.Errorf("nothing passes to %s although the network is open", gateway)
		}
	}

	n = held("3")
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
	for _, gateway := range gateways {
		if !reaches(n, gateway, 20*time.Second) {
			t.Errorf("nothing passes to %s although the network is open", gateway)
		}
	}
}
