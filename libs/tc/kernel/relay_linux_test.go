package kernel_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// echo answers UDP in the session; ask sends n packets from the node, one after the other, waits for as many answers to each, and
// returns the least time until a first one.
func echo(t *testing.T, lab *kerneltest.Lab) (ask func(n, answers int) (least time.Duration)) {
	t.Helper()
	var server, client net.PacketConn
	must(t, lab.Session.Do(func() (err error) {
		server, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", kerneltest.Session4+":7")
		return err
	}))
	must(t, lab.Node.Do(func() (err error) {
		client, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", kerneltest.Node4+":7007")
		return err
	}))
	t.Cleanup(func() { _, _ = server.Close(), client.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(buf[:n], from)
		}
	}()
	to := server.LocalAddr()
	return func(n, answers int) (least time.Duration) {
		t.Helper()
		buf := make([]byte, 2048)
		least = time.Hour
		for range n {
			began := time.Now()
			_, err := client.WriteTo([]byte(strings.Repeat("x", 1000)), to)
			must(t, err)
			for i := range answers {
				must(t, client.SetReadDeadline(time.Now().Add(patience)))
				_, _, err := client.ReadFrom(buf)
				must(t, err)
				if i == 0 {
					least = min(least, time.Since(began))
				}
			}
		}
		return least
	}
}

func relay(t *testing.T, k *kernel.Kernel, on kernel.Interface, f tc.Fault, until uint64) *kernel.Relay {
	t.Helper()
	r, err := k.Relay(t.Context(), on, f, until)
	must(t, err)
	t.Cleanup(r.Close)
	return r
}

// TestRelay measures delay by answers that come back, with and without trees, and how it ends.
func TestRelay(t *testing.T) {
	if caps, _ := kernel.Probe(); !caps.Relay {
		t.Fatal("the tests of this package need tap devices")
	}
	const delay = 200 * time.Millisecond
	fault := tc.Fault{Delay: tc.Duration(delay)}
	for _, shaped := range []bool{true, false} {
		lab := kerneltest.NewLab(t)
		k, on := lab.Node.Open(t), lab.Session.Interface
		base := &tc.Plan{Format: tc.PlanFormat, Session: "s", Mode: tc.Off}
		if shaped {
			base = twoClasses(40 * tc.Mbit)
		}
		apply(t, k, on, base)
		clean := enforced(t, k, on)
		ask := echo(t, lab)
		undelayed := func() bool { return ask(1, 1) < delay } // on a busy machine not each time
		until(t, "an answer comes without a fault", undelayed)
		both := relay(t, k, on, fault, in(time.Hour))
		if least := ask(2, 1); least < 2*delay {
			t.Errorf("shaped: %t: with %v each way the first answer came after %v", shaped, delay, least)
		}
		t.Run("applying keeps it, and writes nothing", func(t *testing.T) {
			before := k.Writes()
			apply(t, k, on, base)
			if least := ask(1, 1); least < 2*delay || k.Writes() != before {
				t.Errorf("shaped: %t: %v, %d writes", shaped, least, k.Writes()-before)
			}
		})
		t.Run("ends with who does it", func(t *testing.T) {
			both.Close() // as when the process dies: the programs are there still
			until(t, "an answer comes at once", undelayed)
			other := lab.Node.Open(t) // of another process
			apply(t, other, on, base)
			if got := enforced(t, other, on); got != clean {
				t.Errorf("shaped: %t: left is\n%s\nwant\n%s", shaped, got, clean)
			}
			if got := kinds(t, lab); strings.Contains(got, "clsact") != shaped {
				t.Errorf("shaped: %t: left is %s", shaped, got)
			}
		})
		t.Run("one way only", func(t *testing.T) {
			up := fault
			up.Direction = tc.Upload
			r := relay(t, k, on, up, in(time.Hour))
			if least := ask(2, 1); least < delay {
				t.Errorf("shaped: %t: the first answer came after %v", shaped, least)
			}
			r.Close()
			apply(t, k, on, base)
		})
		t.Run("doubles packets", func(t *testing.T) {
			r := relay(t, k, on, tc.Fault{Direction: tc.Download, Duplicate: tc.All}, in(time.Hour))
			ask(5, 2)
			r.Close()
			apply(t, k, on, base)
		})
		t.Run("ends by the kernel's clock", func(t *testing.T) {
			r := relay(t, k, on, fault, in(0))
			until(t, "an answer comes at once", undelayed)
			r.Close()
			apply(t, k, on, base)
		})
	}
}

// kinds names the qdiscs of the session's device.
func kinds(t *testing.T, lab *kerneltest.Lab) string {
	t.Helper()
	var found []string
	for _, q := range qdiscs(t, lab.Node, "h0") {
		found = append(found, q.Type())
	}
	return strings.Join(found, " ")
}

// TestRelayTCP moves a stream through a relay: nothing is lost but time.
func TestRelayTCP(t *testing.T) {
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	apply(t, k, on, twoClasses(40*tc.Mbit))
	relay(t, k, on, tc.Fault{Delay: 20 * tc.Millisecond, Jitter: tc.Millisecond}, in(time.Hour))
	for _, c := range []struct {
		from, to *kerneltest.Namespace
		address  string
	}{{lab.Node, lab.Session.Namespace, kerneltest.Session4}, {lab.Session.Namespace, lab.Node, kerneltest.Node6}} {
		meter, stop := kerneltest.Stream(t, c.from, c.to, net.JoinHostPort(c.address, "5000"))
		until(t, "2 MB arrive", func() bool { return meter.Bytes() > 2<<20 })
		stop()
	}
}
