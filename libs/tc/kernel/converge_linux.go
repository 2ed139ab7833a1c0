package kernel

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// step is one message that changes something, and how a person would do the same.
type step struct {
	at   place
	text string
	msg  message

	// Of a step in the phase limit: a transaction of nft.
	rules   *ruleset
	batch   []message
	touched []table
}

// phases are steps in order: those of one are sent together, the next only when all of one were acknowledged.
type phases [phaseCount][]step

// A packet meets either the old classes or the new ones, since the new ones are complete before classify, and the old ones go after it.
const (
	repair   = iota // what somebody else did inside our trees
	base            // roots, and the classes below them
	build           // leaves and their queues, which no filter names yet
	classify        // one message for each tree
	adjust          // rates and queues of what was there before
	connect         // the ingress, once the tree behind it is complete
	limit           // packets and connections: a transaction for each namespace
	disconnect
	discard
	discardMore
	phaseCount
)

func (p *phases) empty() bool {
	for _, steps := range p {
		if len(steps) > 0 {
			return false
		}
	}
	return true
}

// place is a device in a namespace.
type place struct {
	qdiscs *qdiscs
	device int
	name   string // for people
}

// code returns a program to attach; the caller closes it.
type code func() (*ebpf.Program, error)

// converger collects what makes one thing another.
type converger struct {
	phases
	held []*ebpf.Program // until the steps are done
	err  error
}

func (c *converger) add(phase int, at place, verb string, what fmt.Stringer, msg message) {
	text := verb
	if what != nil {
		text = "tc " + insert(what.String(), verb+" dev "+at.name)
	}
	c.phases[phase] = append(c.phases[phase], step{at: at, text: text, msg: msg})
}

// insert puts words behind the first one: "class …" becomes "class add dev x …".
func insert(s, words string) string {
	for i := range s {
		if s[i] == ' ' {
			return s[:i+1] + words + s[i:]
		}
	}
	return s + " " + words
}

// put adds a filter with its program.
func (c *converger) put(phase int, at place, parent uint32, f filter, program code) {
	p, err := program()
	if err != nil {
		c.err = err
		return
	}
	c.held = append(c.held, p)
	c.add(phase, at, "replace", f, f.put(at.device, parent, p.FD()))
}

func (c *converger) release() {
	for _, p := range c.held {
		_ = p.Close()
	}
}

// tree makes what have is what want is.
func (c *converger) tree(at place, have, want *tree, program code) {
	switch {
	case want.root == nil:
		if have.root != nil {
			c.add(discard, at, "del", *have.root, have.root.del(at.device))
		}
		return
	case have.root == nil:
		c.add(base, at, "add", *want.root, want.root.add(at.device))
		have = emptyTree()
	case *have.root != *want.root:
		// An HTB cannot be changed. Plans do not differ here (tc.DefaultMinor): it was somebody else, or another release of ours.
		c.add(repair, at, "del", *have.root, have.root.del(at.device))
		c.add(base, at, "add", *want.root, want.root.add(at.device))
		have = emptyTree()
	}
	gone := c.strays(at, have, want)
	for _, h := range sorted(want.classes, nil) {
		class, old := want.classes[h], have.classes[h]
		phase := build
		if h == parentHandle {
			phase = base
		}
		switch _, there := have.classes[h]; {
		case !there || gone[h]:
			c.add(phase, at, "add", class, class.add(at.device))
		case !class.same(old):
			c.add(adjust, at, "change", class, class.change(at.device))
		}
	}
	for _, h := range sorted(want.queues, nil) {
		queue, old := want.queues[h], have.queues[h]
		switch _, there := have.queues[h]; {
		case !there || gone[h]:
			c.add(build, at, "add", queue, queue.add(at.device))
		case queue.kind != old.kind || queue.handle != old.handle || queue.fixed() && !queue.same(old):
			c.add(repair, at, "del", old, old.del(at.device))
			c.add(build, at, "add", queue, queue.add(at.device))
		case !queue.same(old):
			c.add(adjust, at, "change", queue, queue.change(at.device))
		}
	}
	for _, f := range want.filters {
		if !slices.ContainsFunc(have.filters, f.same) {
			c.put(classify, at, rootHandle, f, program)
		}
	}
}

// strays removes what is in our tree and neither is ours nor was: it returns the classes that are to be made again.
func (c *converger) strays(at place, have, want *tree) (gone map[uint32]bool) {
	gone = map[uint32]bool{}
	for _, f := range have.filters {
		if slices.ContainsFunc(want.filters, func(w filter) bool {
			return w.kind == f.kind && w.handle == f.handle && w.priority == f.priority && w.protocol == f.protocol && w.chain == f.chain
		}) {
			continue // stays, or is replaced
		}
		if f.kind != "bpf" {
			f.handle = 0 // all of that priority
		}
		c.add(repair, at, "del", f, f.del(at.device, rootHandle))
	}
	handles := sorted(have.classes, nil)
	slices.Reverse(handles)
	for depth := maxDepth; depth >= 0; depth-- {
		for _, h := range handles {
			class := have.classes[h]
			if depthOf(have, class) != depth {
				continue
			}
			wanted, ok := want.classes[h]
			switch {
			case ok && wanted.parent == class.parent:
			case !ok && class.parent == parentHandle && !hasChildren(have, h):
				c.add(discard, at, "del", class, class.del(at.device)) // of an older plan: when no filter names it
			default:
				gone[h] = true
				c.add(repair, at, "del", class, class.del(at.device))
			}
		}
	}
	return gone
}

// maxDepth is how deep an HTB can be (TC_HTB_MAXDEPTH).
const maxDepth = 8

func depthOf(t *tree, c class) (n int) {
	for n < maxDepth && c.parent != rootHandle {
		c = t.classes[c.parent]
		n++
	}
	return n
}

func hasChildren(t *tree, h uint32) bool {
	for _, c := range t.classes {
		if c.parent == h {
			return true
		}
	}
	return false
}

// ingress makes a device's ingress what want is: a filter that sends all on, or none.
func (c *converger) ingress(at place, have, want ingress, program code) {
	if want.clsact && !have.clsact {
		// In one send with the filter, by which it is known for ours.
		c.add(connect, at, "tc qdisc add dev "+at.name+" clsact", nil, clsact(at.device))
	}
	for _, f := range want.filters {
		if !slices.ContainsFunc(have.filters, f.same) {
			c.put(connect, at, clsactIngress, f, program)
		}
	}
	if len(want.relays) == 0 && want.clsact {
		for _, f := range have.relays {
			c.add(disconnect, at, "del", f, f.del(at.device, f.parent))
		}
	}
	if have.clsact && !want.clsact { // its filters go with it
		c.add(disconnect, at, "tc qdisc del dev "+at.name+" clsact", nil, clsactDel(at.device))
		return
	}
	for _, f := range have.filters {
		if !slices.ContainsFunc(want.filters, func(w filter) bool { return w.handle == f.handle && w.priority == f.priority }) {
			c.add(disconnect, at, "del", f, f.del(at.device, clsactIngress))
		}
	}
}
