package kerneltest

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/vishvananda/netlink"

	"agentyard.dev/libs/tc"
)

// RateOf is the rate of the tree at a device's root, as a reader finds it that has nothing to do with package kernel; 0: there is none.
func RateOf(t testing.TB, n *Namespace, device string) tc.BitsPerSecond {
	t.Helper()
	l, err := n.links.LinkByName(device)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	classes, err := n.links.ClassList(l, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range classes {
		if htb, ok := c.(*netlink.HtbClass); ok && htb.Handle == tc.RootMajor<<16|tc.ParentMinor {
			return tc.BitsPerSecond(htb.Rate * 8)
		}
	}
	return 0
}

// DeleteRoot deletes what is at a device's root, as somebody may who knows nothing of us.
func DeleteRoot(t testing.TB, n *Namespace, device string) {
	t.Helper()
	l, err := n.links.LinkByName(device)
	if err == nil {
		err = n.links.QdiscDel(netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: tc.RootMajor << 16, Parent: netlink.HANDLE_ROOT}))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// DeleteLink deletes a device.
func DeleteLink(t testing.TB, n *Namespace, device string) {
	t.Helper()
	l, err := n.links.LinkByName(device)
	if err == nil {
		err = n.links.LinkDel(l)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// AddAddress gives a session an address, such as "10.99.0.7/24".
func (s *Session) AddAddress(t testing.TB, cidr string) {
	t.Helper()
	address(t, s.Namespace, "e0", cidr)
}

// AddAddress gives a device of the namespace an address.
func (n *Namespace) AddAddress(t testing.TB, device, cidr string) {
	t.Helper()
	address(t, n, device, cidr)
}

// Tables is what nft(8) lists of the tables in n.
func Tables(t testing.TB, n *Namespace) string {
	t.Helper()
	var out []byte
	if err := n.Do(func() (err error) {
		out, err = exec.Command("nft", "list", "tables").CombinedOutput()
		return err
	}); err != nil {
		t.Fatalf("list tables: %v: %s", err, out)
	}
	return string(out)
}
