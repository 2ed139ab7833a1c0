package kernel_test

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// limited is a plan with limits of each kind, both ways.
func limited(rate, burst, count uint32) *tc.Plan {
	p := twoClasses(40 * tc.Mbit)
	for _, d := range []tc.Direction{tc.Download, tc.Upload} {
		place := tc.AtHost
		if d == tc.Upload {
			place = tc.AtPeer
		}
		p.Limits = append(p.Limits,
			tc.Limit{Kind: tc.PacketRate, Direction: d, Place: place, Rate: rate * 1000, Burst: burst * 1000},
			tc.Limit{Kind: tc.ConnectionRate, Direction: d, Rate: rate, Burst: burst},
			tc.Limit{Kind: tc.Connections, Direction: d, Count: count})
	}
	return p
}

// nft runs the tool in a namespace.
func nft(t *testing.T, n *kerneltest.Namespace, args ...string) string {
	t.Helper()
	var out []byte
	err := n.Do(func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		out, err = exec.CommandContext(ctx, "nft", args...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("nft %v: %v: %s", args, err, out)
	}
	return string(out)
}

func TestLimits(t *testing.T) {
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	if can := k.Capabilities(); !can.NetdevEgress || !can.NetdevIngress || !can.ConnLimit {
		t.Fatalf("%+v: the tests of this package need nftables", can)
	}
	clean := enforced(t, k, on)
	t.Run("are as nft reads the printed commands", func(t *testing.T) {
		p := limited(20, 30, 40)
		apply(t, k, on, p)
		ours, ourInside := nft(t, lab.Node, "list", "ruleset"), nft(t, lab.Session.Namespace, "list", "ruleset")
		if _, err := k.Remove(t.Context(), on); err != nil {
			t.Fatal(err)
		}
		if got := enforced(t, k, on); got != clean {
			t.Errorf("left is\n%s", got)
		}
		c := p.Commands(tc.Devices{Host: "h0", IFB: "ifb0", Peer: "e0", Namespace: "x"})
		for _, at := range []struct {
			n     *kerneltest.Namespace
			lines []string
			want  string
		}{{lab.Node, c.NFT, ours}, {lab.Session.Namespace, c.SessionNFT, ourInside}} {
			nft(t, at.n, strings.Join(at.lines, "; "))
			if got := nft(t, at.n, "list", "ruleset"); got != at.want {
				t.Errorf("the tool makes\n%s\nwe make\n%s", got, at.want)
			}
		}
		other := lab.Node.Open(t)
		if r := apply(t, other, on, p); slices.ContainsFunc(r.Steps, func(s string) bool { return strings.HasPrefix(s, "nft") }) {
			t.Errorf("what the tool made is not known as the same: %v", r.Steps)
		}
	})
	t.Run("write nothing when they are in force", func(t *testing.T) {
		other := lab.Node.Open(t)
		for _, k := range []*kernel.Kernel{k, other} {
			apply(t, k, on, limited(20, 30, 40))
			before := k.Writes()
			if r := apply(t, k, on, limited(20, 30, 40)); len(r.Steps) != 0 || k.Writes() != before {
				t.Errorf("%d writes: %v", k.Writes()-before, r.Steps)
			}
		}
		if other.Writes() != 0 {
			t.Errorf("another process wrote %d messages", other.Writes())
		}
	})
	t.Run("change rule by rule", func(t *testing.T) {
		p := limited(20, 30, 40)
		p.Limits[1].Rate++
		r := apply(t, k, on, p)
		if len(r.Steps) != 1 || !strings.HasPrefix(r.Steps[0], "nft 'replace rule inet agentyard download handle ") || strings.Contains(r.Steps[0], ";") {
			t.Errorf("steps: %v", r.Steps)
		}
	})
	t.Run("are repaired", func(t *testing.T) {
		p := limited(20, 30, 40)
		apply(t, k, on, p)
		want := enforced(t, k, on)
		for _, broken := range []struct {
			n    *kerneltest.Namespace
			args []string
		}{
			{lab.Node, []string{"flush", "ruleset"}}, {lab.Session.Namespace, []string{"flush", "ruleset"}},
			{lab.Session.Namespace, []string{"flush", "chain", "inet", "agentyard", "upload"}},
			{lab.Session.Namespace, []string{"insert", "rule", "inet", "agentyard", "upload", "accept"}},
			{lab.Node, []string{"add", "chain", "netdev", tc.TableName("s"), "other"}},
			{lab.Node, []string{"add", "rule", "netdev", tc.TableName("s"), "download", "counter"}},
		} {
			nft(t, broken.n, broken.args...)
			apply(t, k, on, p)
			if got := enforced(t, k, on); got != want {
				t.Errorf("after nft %v: got\n%s\nwant\n%s", broken.args, got, want)
			}
		}
	})
	t.Run("leave others' tables alone", func(t *testing.T) {
		for _, n := range []*kerneltest.Namespace{lab.Node, lab.Session.Namespace} {
			nft(t, n, "add table inet theirs; add chain inet theirs c; add table netdev theirs")
		}
		apply(t, k, on, limited(1, 5, 1))
		if _, err := k.Remove(t.Context(), on); err != nil {
			t.Fatal(err)
		}
		for _, n := range []*kerneltest.Namespace{lab.Node, lab.Session.Namespace} {
			if got := nft(t, n, "list", "ruleset"); strings.Contains(got, "agentyard") || strings.Count(got, "theirs") != 2 {
				t.Errorf("left is\n%s", got)
			}
			nft(t, n, "flush", "ruleset")
		}
	})
	t.Run("go with a device that goes", func(t *testing.T) {
		s := lab.Node.AddSession(t, "h9")
		p := limited(1, 5, 1)
		p.Session = "gone"
		apply(t, k, s.Interface, p)
		kerneltest.DeleteLink(t, lab.Node, "h9")
		if _, err := k.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := nft(t, lab.Node, "list", "ruleset"); strings.Contains(got, "agentyard") {
			t.Errorf("left is\n%s", got)
		}
	})
}

// caught is what the limits of a plan have caught.
func caught(t *testing.T, k *kernel.Kernel, on kernel.Interface, p *tc.Plan) (packets []uint64) {
	t.Helper()
	read, err := k.CountLimits([]kernel.Interface{on}, []*tc.Plan{p})
	must(t, err)
	for _, c := range read[0] {
		packets = append(packets, c.Packets)
	}
	return packets
}

// TestCountLimits: each session's limits are its own, and those of a session whose namespace another has now are nobody's.
func TestCountLimits(t *testing.T) {
	lab := kerneltest.NewLab(t)
	k, here := lab.Node.Open(t), lab.Session.Interface
	other := lab.Node.AddSession(t, "h9")
	first, second := limited(20, 30, 40), limited(20, 30, 40)
	second.Session = "second"
	apply(t, k, here, first)
	apply(t, k, other.Interface, second)
	nft(t, lab.Node, "replace", "rule", "netdev", tc.TableName("second"), "download", "handle", handleOf(t, lab.Node, tc.TableName("second")), "ip daddr 203.0.113.1 counter packets 7 bytes 700") // to nobody here
	moved := here
	moved.Namespace, moved.Peer = other.Interface.Namespace, other.Interface.Peer
	read, err := k.CountLimits([]kernel.Interface{other.Interface, here, moved}, []*tc.Plan{second, first, first})
	must(t, err)
	if len(read[0]) != 6 || read[0][0].Packets != 7 {
		t.Errorf("the second's: %+v", read[0])
	}
	if len(read[1]) != 6 || read[1][0].Packets == 7 {
		t.Errorf("the first's: %+v", read[1])
	}
	if read[2] != nil {
		t.Errorf("by the file of another's namespace: %+v", read[2])
	}
}

// handleOf is the kernel's name for the only rule of a session's download.
func handleOf(t *testing.T, n *kerneltest.Namespace, table string) string {
	t.Helper()
	_, handle, ok := strings.Cut(nft(t, n, "-a", "list", "chain", "netdev", table, "download"), "drop # handle ")
	if !ok {
		t.Fatal("the rule has no handle")
	}
	return strings.Fields(handle)[0]
}

// TestPacketRate sends more packets than may pass, and asks the classes behind the limit how many came through.
func TestPacketRate(t *testing.T) {
	const burst, sent = 5, 100
	for _, mode := range []tc.Mode{tc.Enforce, tc.Report} {
		for _, ifb := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, shaped at an IFB: %t", mode, ifb), func(t *testing.T) {
				lab := kerneltest.NewQuietLab(t)
				k, on := lab.Node.Open(t), lab.Session.Interface
				p := plan(simple(tc.AtHost, tc.Gbit), simple(tc.AtIFB, tc.Gbit))
				p.Mode = mode
				p.Limits = []tc.Limit{
					{Kind: tc.PacketRate, Direction: tc.Download, Rate: 1, Burst: burst},
					{Kind: tc.PacketRate, Direction: tc.Upload, Place: tc.AtPeer, Rate: 1, Burst: burst},
				}
				if !ifb { // then the node's side will do
					p.Upload, p.Limits[1].Place = nil, tc.AtHost
				}
				apply(t, k, on, p)
				for i, upload := range []bool{false, true} {
					before := packetsOf(t, k, on, upload)[tc.DefaultMinor]
					began := time.Now()
					lab.SendPackets(t, kerneltest.Packet{}, upload, sent)
					most := uint64(burst + 2 + time.Since(began)/time.Second)
					if got := caught(t, k, on, p)[i]; got < sent-most || got > sent-burst {
						t.Errorf("upload: %t: %d of %d packets were caught, want all but %d to %d", upload, got, sent, burst, most)
					}
					if upload && !ifb {
						continue // nothing counts behind it
					}
					passed := packetsOf(t, k, on, upload)[tc.DefaultMinor] - before
					if mode == tc.Report && passed != sent || mode == tc.Enforce && (passed < burst || passed > most) {
						t.Errorf("upload: %t: %d of %d packets passed", upload, passed, sent)
					}
				}
			})
		}
	}
}

// TestConnectionRate begins more connections than may begin: UDP from as many ports.
func TestConnectionRate(t *testing.T) {
	const burst, began = 5, 50
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	p := plan(nil, nil)
	p.Limits = []tc.Limit{
		{Kind: tc.ConnectionRate, Direction: tc.Download, Rate: 1, Burst: burst}, {Kind: tc.ConnectionRate, Direction: tc.Upload, Rate: 1, Burst: burst},
	}
	apply(t, k, on, p)
	for i, c := range []struct {
		from, to *kerneltest.Namespace
		address  string
	}{{lab.Node, lab.Session.Namespace, kerneltest.Session6}, {lab.Session.Namespace, lab.Node, kerneltest.Node4}} {
		to := net.JoinHostPort(c.address, "4000")
		sink := c.to.Sink(t, to)
		start := time.Now()
		for range began {
			must(t, c.from.Do(func() error {
				conn, err := (&net.Dialer{}).DialContext(t.Context(), "udp", to)
				if err != nil {
					return err
				}
				_, _ = conn.Write([]byte("hello")) // refused: it is dropped on the way out
				return conn.Close()
			}))
		}
		until(t, "the first connections arrive", func() bool { return sink.Bytes() > 0 })
		var got, most uint64
		until(t, "the rest is caught", func() bool { // what waited for its neighbour's address arrives when that is known
			got, most = caught(t, k, on, p)[i], uint64(burst+2+time.Since(start)/time.Second)
			return got+most >= began
		})
		if got > began-burst || most >= began {
			t.Errorf("to %s: %d of %d connections were caught, want all but %d to %d", to, got, began, burst, most)
		}
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); kerneltest.Wait(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so: %s", what)
		}
	}
}

// TestConnections opens as many connections as may be open, one more, and another when one has ended.
func TestConnections(t *testing.T) {
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	p := plan(nil, nil)
	p.Limits = []tc.Limit{{Kind: tc.Connections, Direction: tc.Download, Count: 2}, {Kind: tc.Connections, Direction: tc.Upload, Count: 2}}
	apply(t, k, on, p)
	for i, c := range []struct {
		from, to *kerneltest.Namespace
		address  string
	}{{lab.Node, lab.Session.Namespace, kerneltest.Session4}, {lab.Session.Namespace, lab.Node, kerneltest.Node6}} {
		var listener net.Listener
		must(t, c.to.Do(func() (err error) {
			listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(c.address, "5000"))
			return err
		}))
		t.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() { // until the other side ends it
					_, _ = conn.Read(make([]byte, 1))
					_ = conn.Close()
				}()
			}
		}()
		dial := func(timeout time.Duration) (conn net.Conn, err error) {
			return conn, c.from.Do(func() error {
				conn, err = (&net.Dialer{Timeout: timeout}).DialContext(t.Context(), "tcp", listener.Addr().String())
				return err
			})
		}
		var open []net.Conn
		for range 2 {
			conn, err := dial(patience)
			must(t, err)
			open = append(open, conn)
		}
		if _, err := dial(200 * time.Millisecond); err == nil {
			t.Errorf("a third connection to %s was opened", c.address)
		}
		if got := caught(t, k, on, p)[i]; got == 0 {
			t.Errorf("nothing was caught on the way to %s", c.address)
		}
		if _, err := open[0].Write([]byte("x")); err != nil {
			t.Errorf("a connection that was open is not any more: %v", err)
		}
		_ = open[0].Close()
		until(t, "another can be opened when one has ended", func() bool {
			conn, err := dial(time.Second)
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		})
		_ = open[1].Close()
	}
}
