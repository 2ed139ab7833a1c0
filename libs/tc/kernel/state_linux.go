package kernel

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is what one device holds at its root, or shall hold.
type tree struct {
	root    *root // nil: nothing of ours
	foreign string
	classes map[uint32]class
	queues  map[uint32]queue  // by the class that they are below
	waiting map[uint32]uint32 // bytes in the queue of a class
	filters []filter          // at the root
}

func emptyTree() *tree {
	return &tree{classes: map[uint32]class{}, queues: map[uint32]queue{}, waiting: map[uint32]uint32{}}
}

// ingress is what a device holds before its packets enter the node.
type ingress struct {
	clsact  bool
	others  []filter // of others, ingress and egress
	filters []filter // of ours
	relays  []filter // of a Relay, at ingress and egress
}

// made says that the clsact is ours, which a filter of ours remembers.
func (in ingress) made() bool {
	made := func(f filter) bool { return strings.HasSuffix(f.name, madeClsact) }
	return slices.ContainsFunc(in.filters, made) || slices.ContainsFunc(in.relays, made)
}

// readTree reads a device's root qdisc and, where it is ours, all below it.
func readTree(q *qdiscs, device int) (*tree, error) {
	t, s := emptyTree(), q.socket
	o, ok, err := q.get(device, parentRoot)
	if err != nil {
		return nil, fmt.Errorf("read the root qdisc: %w", err)
	}
	if !ok {
		return t, nil
	}
	r := decodeRoot(o)
	if o.kind != "htb" || !r.ours() {
		t.foreign = fmt.Sprintf("qdisc %s %s root", o.kind, handleText(o.handle))
		return t, nil
	}
	t.root = &r
	withQueue := []uint32{}
	err = dumpObjects(s, traffic(unix.RTM_GETTCLASS, 0, device, 0, 0, 0).end(), func() {
		clear(t.classes)
		clear(t.waiting)
		withQueue = withQueue[:0]
	}, func(o object) error {
		if o.handle>>16 != rootHandle>>16 || o.kind != "htb" { // of a qdisc that somebody hung below ours
			return nil
		}
		c, err := decodeClass(o)
		if err != nil {
			return err
		}
		if c.parent == parentRoot {
			c.parent = rootHandle
		}
		t.classes[c.handle] = c
		if o.info != 0 {
			withQueue = append(withQueue, c.handle)
			t.waiting[c.handle] = decodeCounters(o).Backlog
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read classes: %w", err)
	}
	for _, parent := range withQueue {
		o, ok, err := q.get(device, parent)
		if err != nil {
			return nil, fmt.Errorf("read the queue of class %s: %w", handleText(parent), err)
		}
		if ok {
			t.queues[parent] = decodeQueue(o)
		}
	}
	if t.filters, err = readFilters(s, device, rootHandle); err != nil {
		return nil, fmt.Errorf("read filters: %w", err)
	}
	return t, nil
}

func readFilters(s *socket, device int, parent uint32) (found []filter, err error) {
	m := traffic(unix.RTM_GETTFILTER, 0, device, 0, parent, 0).end()
	err = dumpObjects(s, m, func() { found = nil }, func(o object) error {
		if o.handle != 0 || o.kind != "bpf" { // with no handle: the list that filters of a priority are in, which all but empty kinds repeat
			found = append(found, decodeFilter(o))
		}
		return nil
	})
	return found, err
}

// readIngress reads what a device's clsact holds. ours and others' filters are told apart by name.
func readIngress(q *qdiscs, device int) (in ingress, err error) {
	o, ok, err := q.get(device, parentClsact)
	if err != nil {
		return in, fmt.Errorf("read the ingress qdisc: %w", err)
	}
	if !ok {
		return in, nil
	}
	in.clsact = true
	for _, parent := range []uint32{clsactIngress, clsactEgress} {
		if o.kind != "clsact" && parent == clsactEgress {
			break // a plain ingress
		}
		fs, err := readFilters(q.socket, device, parent)
		if err != nil {
			return in, fmt.Errorf("read ingress filters: %w", err)
		}
		for _, f := range fs {
			if f.kind == "bpf" && strings.HasPrefix(f.name, relayPrefix) {
				f.parent = parent
				in.relays = append(in.relays, f)
			} else if f.ours() && parent == clsactIngress {
				in.filters = append(in.filters, f)
			} else {
				in.others = append(in.others, f)
			}
		}
	}
	return in, nil
}

func getObject(s *socket, m message) (object, bool, error) {
	got, ok, err := s.get(m)
	if err != nil || !ok {
		return object{}, false, err
	}
	o, err := decodeObject(got.body)
	return o, err == nil, err
}

func dumpObjects(s *socket, m message, restart func(), f func(object) error) error {
	return s.dump(m, restart, func(got received) error {
		o, err := decodeObject(got.body)
		if err != nil {
			return err
		}
		return f(o)
	})
}

// differences says, for people, how t differs from want; none when they are the same.
func (t *tree) differences(want *tree) (found []string) {
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	switch {
	case t.foreign != "":
		say("%s is somebody else's", t.foreign)
	case (t.root == nil) != (want.root == nil):
		say("the root qdisc is there: %t, wanted: %t", t.root != nil, want.root != nil)
	case t.root != nil && *t.root != *want.root:
		say("%s, wanted %s", *t.root, *want.root)
	}
	for _, h := range sorted(t.classes, want.classes) {
		have, ok := t.classes[h]
		wanted, ok2 := want.classes[h]
		if ok != ok2 || ok && !wanted.same(have) {
			say("class %s: %+v (%t), wanted %+v (%t)", handleText(h), have, ok, wanted, ok2)
		}
	}
	for _, h := range sorted(t.queues, want.queues) {
		have, ok := t.queues[h]
		wanted, ok2 := want.queues[h]
		if ok != ok2 || ok && !wanted.same(have) {
			say("queue of %s: %+v (%t), wanted %+v (%t)", handleText(h), have, ok, wanted, ok2)
		}
	}
	if !slices.EqualFunc(t.filters, want.filters, filter.same) {
		say("filters %v, wanted %v", t.filters, want.filters)
	}
	return found
}

// same leaves out the kernel's number of the program: the tag says what it does.
func (f filter) same(g filter) bool {
	f.program, g.program = 0, 0
	return f == g
}

// sorted are the keys of both maps, ascending: classes come after their parents, whose minors are lower.
func sorted[T any](a, b map[uint32]T) []uint32 {
	keys := map[uint32]struct{}{}
	for _, m := range []map[uint32]T{a, b} {
		for k := range m {
			keys[k] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(keys))
}
