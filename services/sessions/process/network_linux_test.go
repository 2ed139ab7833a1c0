package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/runtimetest"
	"agentyard.dev/services/sessions/sandbox"
	"agentyard.dev/services/sessions/sandbox/sandboxtest"
)

// testDial says what answers at each address, listens, and waits.
func testDial(addresses []string) int {
	listener, err := net.Listen("tcp", ":7009")
	if err != nil {
		fmt.Println(err)
	}
	said := map[string]string{}
	for _, to := range addresses {
		conn, err := net.DialTimeout("tcp", to, time.Second)
		if err != nil {
			said[to] = "no"
			continue
		}
		text, _ := io.ReadAll(conn)
		said[to] = string(text)
		_ = conn.Close()
	}
	text, _ := json.Marshal(said)
	fmt.Println(string(text))
	for { // answers whoever gets here
		conn, err := listener.Accept()
		if err != nil {
			return 0
		}
		_ = conn.Close()
	}
}

// TestNetwork sends real packets out of sessions' networks. The machine is a network namespace, so that the real one's tables are not touched.
func TestNetwork(t *testing.T) {
	if !sandboxtest.OwnNetwork(t, 10*patience) {
		return
	}
	internet, err := sandbox.MakeNetwork(launch.Network{Address: "192.0.2.2", Gateway: "192.0.2.1", Address6: "2001:db8::2", Gateway6: "2001:db8::1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(internet.Close)
	serve := func(at string) net.Listener { // it says from which address it was reached
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Error(err)
			return nil
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				from, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
				_, _ = io.WriteString(conn, from.Addr().String())
				_ = conn.Close()
			}
		}()
		return l
	}
	if err := internet.Do(func() error {
		serve("192.0.2.2:7000")
		serve("[2001:db8::2]:7000")
		for _, a := range []string{"169.254.169.254/32", "fd00:ec2::254/128"} {
			if err := exec.Command("ip", "address", "add", a, "dev", "eth0", "nodad").Run(); err != nil {
				return fmt.Errorf("stand in for metadata: %w", err)
			}
		}
		serve("169.254.169.254:7000")
		serve("[fd00:ec2::254]:7000")
		// nobody out there knows the way to a session
		return errors.Join(exec.Command("ip", "route", "del", "default").Run(), exec.Command("ip", "-6", "route", "del", "default").Run())
	}); err != nil {
		t.Fatal(err)
	}
	command(t, "ip", "route", "add", "169.254.169.254", "via", "192.0.2.2", "dev", hostSide(t))
	command(t, "ip", "route", "add", "fd00:ec2::254", "via", "2001:db8::2", "dev", hostSide(t))
	for _, a := range []string{"169.254.169.254:7000", "[fd00:ec2::254]:7000"} {
		conn, err := net.DialTimeout("tcp", a, patience)
		if err != nil {
			t.Fatalf("the machine reaches no metadata: %v", err)
		}
		_ = conn.Close()
	}
	serve("127.0.0.1:7001")
	serve(":7002")

	dir := t.TempDir()
	cfg := config(dir)
	cfg.Network, cfg.NetworkHold = true, 0 // the test's runner opens no network that is held
	r := New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	defer cancel()
	if err := r.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	begin := func(dial ...string) (launch.Launch, map[string]string) {
		t.Helper()
		l := launch.Launch{
			Tenant: "acme", Session: api.NewID(api.KindSession), Incarnation: 1, EndpointKey: "k",
			Env: map[string]string{runtimetest.Daemons: "1", "DIAL": strings.Join(dial, " ")},
		}
		if _, err := r.Start(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		var said map[string]string
		eventually(t, "the agent has dialled", func() bool {
			text, err := os.ReadFile(filepath.Join(cfg.DataDir, "sessions", l.Session, "agent.out"))
			return err == nil && json.Unmarshal(text, &said) == nil
		})
		i, err := readInstance(r.dir(l.Session))
		if err != nil {
			t.Fatal(err)
		}
		l.Sandbox.Network.Address = i.Address
		return l, said
	}
	gateway6 := "[" + r.network.beside(r.network.gateway()).String() + "]:7002"
	first, said := begin("192.0.2.2:7000", "127.0.0.1:7001", "127.0.0.1:7002", "10.213.0.1:7002", "192.0.2.1:7002",
		"[2001:db8::2]:7000", "[::1]:7002", gateway6, "[2001:db8::1]:7002", "169.254.169.254:7000", "[fd00:ec2::254]:7000")
	want := map[string]string{
		"192.0.2.2:7000": "192.0.2.1", // by the machine's address
		"127.0.0.1:7001": "no", "127.0.0.1:7002": "no", "10.213.0.1:7002": "no", "192.0.2.1:7002": "no",
		"[2001:db8::2]:7000": "2001:db8::1", "[::1]:7002": "no", gateway6: "no", "[2001:db8::1]:7002": "no",
		"169.254.169.254:7000": "no", "[fd00:ec2::254]:7000": "no",
	}
	if fmt.Sprint(said) != fmt.Sprint(want) {
		t.Errorf("the first session reaches %v, want %v", said, want)
	}
	first6 := "[" + r.network.beside(netip.MustParseAddr(first.Sandbox.Network.Address)).String() + "]:7009"
	second, said := begin("192.0.2.2:7000", first.Sandbox.Network.Address+":7009", first6)
	if said["192.0.2.2:7000"] != "192.0.2.1" || said[first.Sandbox.Network.Address+":7009"] != "no" || said[first6] != "no" {
		t.Errorf("the second session reaches %v", said)
	}
	if first.Sandbox.Network.Address == second.Sandbox.Network.Address {
		t.Error("both have the same address")
	}
	for _, to := range []string{first.Sandbox.Network.Address + ":7009", first6} {
		if conn, err := net.DialTimeout("tcp", to, patience); err != nil {
			t.Errorf("the machine does not reach a session: %v", err)
		} else {
			_ = conn.Close()
		}
	}

	// A runner that is killed takes its network with it.
	i, err := readInstance(r.dir(first.Session))
	if err != nil {
		t.Fatal(err)
	}
	i.signal(kill)
	eventually(t, "the killed session's route is gone", func() bool {
		return !strings.Contains(command(t, "ip", "route"), first.Sandbox.Network.Address+" ")
	})
	// The runtime's end leaves a machine with sessions as it is, the next takes it up, and the last leaves nothing.
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(command(t, "nft", "list", "tables"), "agentyard_10_213_0_0_16") {
		t.Error("the session that goes on has lost its way out")
	}
	r = New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel = context.WithCancel(context.Background())
	defer cancel()
	go func() { ended <- r.Run(ctx) }()
	if err := r.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, said = begin("192.0.2.2:7000")
	if said["192.0.2.2:7000"] != "192.0.2.1" {
		t.Errorf("a session of the next runtime reaches %v", said)
	}
	running, err := r.List(t.Context())
	for _, s := range running {
		err = errors.Join(err, r.Stop(t.Context(), sessions.Ref{Tenant: "acme", Session: s.Session}, time.Second, false))
	}
	if err != nil || len(running) != 2 {
		t.Fatal(running, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if tables := command(t, "nft", "list", "tables"); tables != "" {
		t.Errorf("left behind: %s", tables)
	}
	for _, file := range []string{ipForward, ipForward6} {
		if forward, _ := os.ReadFile(file); strings.TrimSpace(string(forward)) != "0" {
			t.Errorf("the machine still forwards packets: %s", file)
		}
	}
	left := func() bool { return strings.Count(command(t, "ip", "-o", "link"), "ays") > 1 } // one is the test's own, to its internet
	// The kernel takes the namespaces of all that runs on the machine apart one after the other, which can take long.
	for deadline := time.After(5 * patience); left(); {
		select {
		case <-deadline:
			t.Fatal("a link is left")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// hostSide is the machine's side of the only pair that there is.
func hostSide(t *testing.T) string {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Name, sandbox.HostPrefix) {
			return l.Name
		}
	}
	t.Fatal("there is no pair")
	return ""
}

// TestWithoutIPv6: why sessions have none is said, and they have no address of it.
func TestWithoutIPv6(t *testing.T) {
	if !sandboxtest.OwnNetwork(t, patience) {
		return
	}
	if err := possible6(); err == nil || !strings.Contains(err.Error(), "the machine itself has no address") {
		t.Errorf("got %v", err)
	}
	a, err := newAddresses("10.9.8.0/29", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := a.take(); err != nil || n.Address6 != "" || n.Gateway6 != "" {
		t.Error(n, err)
	}
	command(t, "ip", "address", "add", "2001:db8::1/64", "dev", "lo", "nodad")
	if err := possible6(); err != nil {
		t.Errorf("got %v", err)
	}
	command(t, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "router")
	if err := os.WriteFile(ipConf6+"up0/accept_ra_from_local", []byte("1"), 0o600); err != nil { // both sides are here
		t.Fatal(err)
	}
	for device, address := range map[string]string{"up0": "fe80::8/64", "router": "fe80::9/64"} {
		command(t, "ip", "link", "set", device, "up")
		command(t, "ip", "address", "add", address, "dev", device, "nodad")
	}
	eventually(t, "a router advertises itself, and is heeded", func() bool {
		advertise(t, "fe80::9%router")
		return strings.Contains(command(t, "ip", "-6", "route", "show", "default"), "proto ra")
	})
	if err := possible6(); err == nil || !strings.Contains(err.Error(), "net.ipv6.conf.up0.accept_ra") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(ipConf6+"all/disable_ipv6", []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := possible6(); err == nil || !strings.Contains(err.Error(), "switched off") {
		t.Errorf("got %v", err)
	}
}

// advertise sends a router's advertisement (RFC 4861) from a link's own address to all.
func advertise(t *testing.T, from string) {
	t.Helper()
	conn, err := net.ListenPacket("ip6:ipv6-icmp", from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.IPConn).SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255) })
		err = errors.Join(err, cerr)
	}
	if err == nil {
		const kind, hops, lifetime = 134, 64, 30 // minutes
		packet := []byte{0: kind, 4: hops, 6: lifetime * 60 >> 8, 7: lifetime * 60 & 0xff, 15: 0}
		_, zone, _ := strings.Cut(from, "%")
		_, err = conn.WriteTo(packet, &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: zone})
	}
	if err != nil {
		t.Fatalf("advertise: %v", err)
	}
}

func command(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", argv, err, out)
	}
	return string(out)
}

func TestAddresses(t *testing.T) {
	for _, bad := range []string{"", "10.0.0.0", "10.0.0.1/24", "fd00::/64", "10.0.0.0/30", "0.0.0.0/0", "x"} {
		if _, err := newAddresses(bad, nil, 0); err == nil {
			t.Errorf("the pool %q is accepted", bad)
		}
	}
	for _, bad := range []string{"10.0.0.1:80", "127.0.0.1", "localhost:80", "127.0.0.1:0"} {
		if _, err := newAddresses("10.0.0.0/24", []string{bad}, 0); err == nil {
			t.Errorf("the address %q is accepted", bad)
		}
	}
	a, err := newAddresses("10.9.8.0/29", []string{"127.0.0.1:80"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	a.keep("10.9.8.3")
	var got []string
	for range 4 {
		n, err := a.take()
		if err != nil || n.Gateway != "10.9.8.1" {
			t.Fatal(n, err)
		}
		got = append(got, n.Address)
	}
	if fmt.Sprint(got) != "[10.9.8.2 10.9.8.4 10.9.8.5 10.9.8.6]" {
		t.Errorf("got %v", got)
	}
	if _, err := a.take(); api.CodeOf(err) != api.CodeExhausted {
		t.Errorf("got %v", err)
	}
	a.giveBack("10.9.8.4")
	if n, err := a.take(); err != nil || n.Address != "10.9.8.4" {
		t.Error(n, err)
	}
}
