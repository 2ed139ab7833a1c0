package kernel

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"agentyard.dev/libs/tc"
)

// Refuse lets f answer for the kernel: a message for which it returns an error is not sent.
func (k *Kernel) Refuse(f func() error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.socket.refuse = nil
	if f != nil {
		k.socket.refuse = func(message) error { return f() }
	}
}

// Enforced says all that is there of ours, without the numbers that differ between two devices that hold the same.
func (k *Kernel) Enforced(on Interface) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a := &apply{k: k, on: on, ifb: ifbName(on.Index)}
	if err := a.find(); err != nil {
		return "", err
	}
	clear(k.inside) // look
	if err := a.findLimits(&tc.Plan{Session: "s"}); err != nil {
		return "", err
	}
	if a.inside != nil {
		defer func() { _ = a.inside.socket.close() }()
	}
	w, err := a.observe()
	if err != nil {
		return "", err
	}
	return w.print(), nil
}

func (w *world) print() string {
	var b strings.Builder
	for _, t := range []struct {
		name string
		*tree
	}{{"download", w.download}, {"upload", w.upload}, {"peer", w.peer}} {
		if t.tree == nil {
			continue
		}
		fmt.Fprintln(&b, t.name, t.foreign)
		if t.root != nil {
			fmt.Fprintf(&b, "  %+v\n", *t.root)
		}
		for _, h := range sorted(t.classes, nil) {
			c := t.classes[h]
			if h == parentHandle {
				c.quantum, c.priority = 0, 0 // see class.same
			}
			fmt.Fprintf(&b, "  class %+v\n", c)
		}
		for _, h := range sorted(t.queues, nil) {
			fmt.Fprintf(&b, "  queue %+v\n", t.queues[h])
		}
		for _, f := range t.filters {
			f.program = 0
			fmt.Fprintf(&b, "  filter %+v\n", f)
		}
	}
	for _, t := range append(slices.Clone(w.nodeLimits), w.insideLimits...) {
		fmt.Fprintln(&b, "table", t.key())
		for _, c := range t.chains {
			fmt.Fprintln(&b, "  chain", c.name, c.hook, c.priority, c.device, c.accept)
			for _, r := range c.rules {
				for _, s := range r.steps {
					if s.kind == kindCounter {
						s.data = nil
					}
					fmt.Fprintf(&b, "    %s %x\n", s.kind, s.data)
				}
			}
		}
	}
	fmt.Fprintln(&b, "ingress; IFB:", w.ifb.name != "", w.ifb.up)
	for _, f := range w.ingress.filters {
		fmt.Fprintf(&b, "  filter %s %d\n", f.kind, f.priority) // its program names the device
	}
	return b.String()
}

// Steps says what Apply would do, and does nothing.
func (k *Kernel) Steps(on Interface, plan *tc.Plan) (texts []string, err error) {
	k.Refuse(func() error { return fmt.Errorf("not now") })
	defer k.Refuse(nil)
	r, _ := k.Apply(context.Background(), on, plan) // refused at its first step
	return r.Steps, nil
}
