package kerneltest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"agentyard.dev/libs/tc/kernel"
	"agentyard.dev/libs/thread"
)

// Namespace is a network namespace of a test.
type Namespace struct {
	handle netns.NsHandle
	links  *netlink.Handle
}

// Path is a file of the namespace, as long as the test runs.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(n.handle)) }

// Do runs f on a thread in the namespace, which ends with it. Sockets that f opens stay in the namespace.
func (n *Namespace) Do(f func() error) error { return do(n.handle, f) }

func do(handle netns.NsHandle, f func() error) error {
	return thread.Own(func() error {
		if err := netns.Set(handle); err != nil {
			return err
		}
		return f()
	})
}

// NewNamespace makes an empty namespace with its loopback up; it ends with the test.
func NewNamespace(t testing.TB) *Namespace {
	t.Helper()
	n, err := MakeNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// MakeNamespace is NewNamespace without a test. Close ends it.
func MakeNamespace() (*Namespace, error) {
	var handle netns.NsHandle
	if err := thread.Own(func() (err error) {
		handle, err = netns.New()
		return err
	}); err != nil {
		return nil, fmt.Errorf("make a network namespace (needs root): %w", err)
	}
	n := &Namespace{handle: handle}
	var err error
	// Only this family: a handle of all needs XFRM and netfilter in the kernel.
	if n.links, err = netlink.NewHandleAt(n.handle, unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open netlink in a namespace: %w", err)
	}
	_, err = n.up("lo")
	return n, err
}

// Close ends the namespace, with all that is in it, when nobody else holds it.
func (n *Namespace) Close() {
	n.links.Close()
	_ = n.handle.Close()
}

// MakePair makes a veth pair with both sides in n, as many sessions' as a benchmark wants at little cost.
func (n *Namespace) MakePair(name string) (kernel.Interface, error) {
	if err := n.links.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}); err != nil {
		return kernel.Interface{}, fmt.Errorf("make veth pair %s: %w", name, err)
	}
	if _, err := n.up(name + "p"); err != nil {
		return kernel.Interface{}, err
	}
	index, err := n.up(name)
	return kernel.Interface{Index: index}, err
}

// Session is a namespace behind a veth pair, as a runtime makes for a session.
type Session struct {
	*Namespace
	Interface kernel.Interface
	Host      string // the device on the node's side
}

// Lab is a node with one session, with addresses on both sides.
type Lab struct {
	Node    *Namespace
	Session *Session
}

// Addresses of a Lab. The node has four of each family, for what is told apart by address.
const (
	Node4    = "10.99.0.1"
	Other4   = "10.99.0.11"
	Session4 = "10.99.0.2"
	Node6    = "fd99::1"
	Other6   = "fd99::11"
	Session6 = "fd99::2"
)

// NewLab makes one.
func NewLab(t testing.TB) *Lab {
	t.Helper()
	l := &Lab{Node: NewNamespace(t)}
	l.Session = l.Node.AddSession(t, "h0")
	for _, a := range []string{Node4 + "/24", Other4 + "/24", Node6 + "/64", Other6 + "/64"} {
		address(t, l.Node, "h0", a)
	}
	for _, a := range []string{Session4 + "/24", Session6 + "/64"} {
		address(t, l.Session.Namespace, "e0", a)
	}
	return l
}

// Addresses of who is beyond a Lab's two ends.
const (
	Beyond4 = "10.98.0.2" // the node
	Within4 = "10.97.0.2" // the session
)

// Extend puts a namespace beyond each end of the lab, for which the node and the session are routers: what these two send to each other the kernel
// takes for traffic of elsewhere, which it does not hold back while it waits in a queue. They send packets as they come from afar, not bundles of forty.
func (l *Lab) Extend(t testing.TB) (beyond, within *Namespace) {
	t.Helper()
	network := func(at *Namespace, device, host, guest, gateway string) *Namespace {
		n := at.AddSession(t, device)
		address(t, at, device, host+"/24")
		n.AddAddress(t, guest+"/24")
		end, err := n.links.LinkByName("e0")
		if err == nil {
			err = errors.Join(n.links.LinkSetGSOMaxSize(end, 2*1514), n.links.LinkSetGSOIPv4MaxSize(end, 2*1514))
		}
		for on, via := range map[*Namespace]string{n.Namespace: host, at: gateway} {
			everywhere := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
			err = errors.Join(err, on.links.RouteAdd(&netlink.Route{Gw: net.ParseIP(via), Dst: everywhere}))
		}
		err = errors.Join(err, at.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600) }))
		if err != nil {
			t.Fatalf("have %s route: %v", device, err)
		}
		return n.Namespace
	}
	return network(l.Node, "beyond", "10.98.0.1", Beyond4, Session4), network(l.Session.Namespace, "within", "10.97.0.1", Within4, Node4)
}

// AddSession makes a session whose device on n's side has the name host.
func (n *Namespace) AddSession(t testing.TB, host string) *Session {
	t.Helper()
	return n.addSession(t, host, func(*Namespace) {})
}

func (n *Namespace) addSession(t testing.TB, host string, prepare func(*Namespace)) *Session {
	t.Helper()
	s := &Session{Namespace: NewNamespace(t), Host: host}
	prepare(s.Namespace)
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: host}, PeerName: "e0", PeerNamespace: netlink.NsFd(int(s.handle))}
	if err := n.links.LinkAdd(pair); err != nil {
		t.Fatalf("make veth pair %s: %v", host, err)
	}
	s.Interface.Namespace = s.Path()
	var err error
	if s.Interface.Index, err = n.up(host); err != nil {
		t.Fatal(err)
	}
	if s.Interface.Peer, err = s.up("e0"); err != nil {
		t.Fatal(err)
	}
	return s
}

// Inhabit starts a process in the session's namespace, by which an agent finds it, and returns its id. It ends with the test.
func (s *Session) Inhabit(t testing.TB) (pid int) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := s.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func (n *Namespace) up(name string) (index int, err error) {
	l, err := n.links.LinkByName(name)
	if err == nil {
		err = n.links.LinkSetUp(l)
	}
	if err != nil {
		return 0, fmt.Errorf("set %s up: %w", name, err)
	}
	return l.Attrs().Index, nil
}

func address(t testing.TB, n *Namespace, device, cidr string) {
	t.Helper()
	l, err := n.links.LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatal(err)
	}
	a.Flags = unix.IFA_F_NODAD // an IPv6 address is usable at once
	if err := n.links.AddrAdd(l, a); err != nil {
		t.Fatalf("give %s the address %s: %v", device, cidr, err)
	}
}

// Open opens the kernel of n; it is closed when the test ends.
func (n *Namespace) Open(t testing.TB) *kernel.Kernel {
	t.Helper()
	k, err := kernel.Open(n.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

// Links gives tests the whole of netlink in n.
func (n *Namespace) Links() *netlink.Handle { return n.links }

// Hold sets the session's link down, as who makes a session's interface leaves it, with an alias that begins with prefix and names the session's namespace.
func (n *Namespace) Hold(t testing.TB, s *Session, prefix string) {
	t.Helper()
	l, err := n.links.LinkByName(s.Host)
	if err == nil {
		err = n.links.LinkSetDown(l)
	}
	if err != nil {
		t.Fatalf("hold %s: %v", s.Host, err)
	}
	n.Alias(t, s.Host, prefix+s.Path())
	// The kernel tells nobody of the alias of a device that is down, but of this.
	if err := n.links.LinkSetTxQLen(l, 500); err != nil {
		t.Fatalf("hold %s: %v", s.Host, err)
	}
}

// Alias gives a device of n an alias.
func (n *Namespace) Alias(t testing.TB, device, alias string) {
	t.Helper()
	l, err := n.links.LinkByName(device)
	if err == nil {
		err = n.links.LinkSetAlias(l, alias)
	}
	if err != nil {
		t.Fatalf("name %s: %v", device, err)
	}
}

// Up reports whether a device of n is set up.
func (n *Namespace) Up(t testing.TB, device string) bool {
	t.Helper()
	l, err := n.links.LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Flags&net.FlagUp != 0
}
