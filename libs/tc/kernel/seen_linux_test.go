package kernel_test

import (
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"

	"agentyard.dev/libs/tc/kernel/kerneltest"
)

func itoa(n int) string { return strconv.Itoa(n) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func device(t *testing.T, n *kerneltest.Namespace, name string) netlink.Link {
	t.Helper()
	l, err := n.Links().LinkByName(name)
	must(t, err)
	return l
}

// classes are a device's, as a reader that is not ours finds them.
func classes(t *testing.T, n *kerneltest.Namespace, name string) map[uint32]*netlink.HtbClass {
	t.Helper()
	list, err := n.Links().ClassList(device(t, n, name), 0)
	must(t, err)
	found := map[uint32]*netlink.HtbClass{}
	for _, c := range list {
		if h, ok := c.(*netlink.HtbClass); ok {
			found[h.Handle] = h
		}
	}
	return found
}

func qdiscs(t *testing.T, n *kerneltest.Namespace, name string) []netlink.Qdisc {
	t.Helper()
	list, err := n.Links().QdiscList(device(t, n, name))
	must(t, err)
	return list
}

func exists(t *testing.T, n *kerneltest.Namespace, name string) bool {
	t.Helper()
	links, err := n.Links().LinkList()
	must(t, err)
	for _, l := range links {
		if l.Attrs().Name == name {
			return true
		}
	}
	return false
}
