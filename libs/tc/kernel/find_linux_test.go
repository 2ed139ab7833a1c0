package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

func TestFind(t *testing.T) {
	lab := kerneltest.NewLab(t)
	k := lab.Node.Open(t)
	second := lab.Node.AddSession(t, "h1")
	for s, addresses := range map[*kerneltest.Session]string{lab.Session: "[10.99.0.2 fd99::2]", second: "[]"} {
		if got, err := k.Find(s.Path()); err != nil || got.Interface != s.Interface || fmt.Sprint(got.Addresses) != addresses {
			t.Errorf("got %+v %v, want %+v with %s", got, err, s.Interface, addresses)
		}
	}
	for _, path := range []string{"/proc/1073741824/ns/net", kerneltest.NewNamespace(t).Path()} {
		if _, err := k.Find(path); !errors.Is(err, kernel.ErrGone) {
			t.Errorf("%s: got %v", path, err)
		}
	}
	t.Run("a session of another node is none", func(t *testing.T) {
		if _, err := k.Find(kerneltest.NewQuietLab(t).Session.Path()); !errors.Is(err, kernel.ErrGone) {
			t.Errorf("got %v", err)
		}
	})
}

func TestSweep(t *testing.T) {
	lab := kerneltest.NewQuietLab(t)
	k := lab.Node.Open(t)
	second := lab.Node.AddSession(t, "h1")
	for _, s := range []*kerneltest.Session{lab.Session, second} {
		apply(t, k, s.Interface, twoClasses(tc.Mbit))
	}
	must(t, lab.Node.Links().LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: "ayu99"}})) // somebody else's: not in our group
	must(t, lab.Node.Links().LinkDel(device(t, lab.Node, "h1")))
	deleted, err := k.Sweep(t.Context())
	if err != nil || len(deleted) != 1 || deleted[0] != "ayu"+itoa(second.Interface.Index) {
		t.Errorf("deleted %v, %v", deleted, err)
	}
	for name, want := range map[string]bool{"ayu" + itoa(lab.Session.Interface.Index): true, "ayu" + itoa(second.Interface.Index): false, "ayu99": true} {
		if got := exists(t, lab.Node, name); got != want {
			t.Errorf("%s is there: %t", name, got)
		}
	}
}

func TestWatch(t *testing.T) {
	lab := kerneltest.NewQuietLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	ctx, cancel := context.WithCancel(t.Context())
	changes, ready, ended := make(chan kernel.Change, 100), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- k.Watch(ctx, func() { close(ready) }, func(c kernel.Change) { changes <- c })
	}()
	<-ready
	apply(t, k, on, plan(simple(tc.AtHost, tc.Mbit), nil)) // our own are not told
	must(t, lab.Node.Links().QdiscDel(netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: on.Index, Handle: 0x10000, Parent: netlink.HANDLE_ROOT})))
	next := func() kernel.Change {
		select {
		case c := <-changes:
			return c
		case <-time.After(20 * time.Second):
			t.Fatal("no change was told")
			return kernel.Change{}
		}
	}
	if c := next(); c != (kernel.Change{Device: on.Index}) {
		t.Errorf("got %+v", c)
	}
	must(t, lab.Node.Links().LinkDel(device(t, lab.Node, "h0")))
	for c := next(); !c.Gone; c = next() {
		if c.Device != on.Index {
			t.Errorf("got %+v", c)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
