package kernel

import (
	"fmt"
	"slices"
	"strings"

	"agentyard.dev/libs/tc"
	"github.com/cilium/ebpf"
)

// wanted is a world to come, with the programs of its filters.
type wanted struct {
	world
	hasIFB   bool
	programs map[string]code // by the filter's name
}

// innerQuantum is what 1:1 is made with: the kernel asks for one, and uses it for leaves only.
const innerQuantum = 1514

// wantTree is the tree of a plan.
func (a *apply) wantTree(t *tc.Tree, w *wanted) (*tree, error) {
	out := emptyTree()
	if t == nil {
		return out, nil
	}
	out.root = &root{rootHandle, uint32(t.Default), r2q, rootMark}
	out.classes[parentHandle] = newClass(parentHandle, rootHandle, t.Rate, t.Rate, t.Burst, t.Burst, innerQuantum, 0)
	for _, l := range t.Leaves {
		h := rootHandle | uint32(l.Minor)
		out.classes[h] = newClass(h, parentHandle, l.Rate, l.Ceiling, l.Burst, l.CeilingBurst, uint32(l.Quantum), uint32(l.Priority))
		out.queues[h] = newQueue(l.Minor, l.Queue)
	}
	if len(t.Filters) == 0 && t.Fault == nil {
		return out, nil
	}
	p, err := a.k.programs.classifier(t)
	if err != nil {
		return nil, err
	}
	f := classFilter(p)
	out.filters = []filter{f}
	w.programs[f.name] = func() (*ebpf.Program, error) { return a.k.programs.handle(p) }
	return out, nil
}

// madeClsact ends the name of an ingress filter whose clsact we made, and shall remove.
const madeClsact = "+"

// want is what the plan asks, given what is there: the device of the IFB, and whose clsact it is.
func (a *apply) want(have *world) (*wanted, error) {
	w := &wanted{programs: map[string]code{}}
	var err error
	if w.download, err = a.wantTree(a.download, w); err != nil {
		return nil, err
	}
	a.ease(a.host, have.download, w.download)
	up, err := a.wantTree(a.upload, w)
	if err != nil {
		return nil, err
	}
	w.upload = emptyTree()
	if have.peer != nil {
		w.peer = emptyTree()
	}
	w.nodeLimits, w.insideLimits = a.nodeLimits, a.insideLimits
	made := have.ingress.made()
	w.ingress.clsact = have.ingress.clsact && (!made || len(have.ingress.others) > 0)
	if a.k.relayed(a.on.Index) {
		w.ingress.clsact, w.ingress.relays = true, have.ingress.relays
	}
	switch {
	case a.upload == nil:
	case a.upload.Place == tc.AtPeer:
		w.peer = up
		a.ease(a.peer, have.peer, up)
	default:
		w.upload, w.hasIFB, w.ingress.clsact = up, true, true
		a.ease(place{device: have.ifb.index}, have.upload, up)
		if have.ifb.index == 0 {
			break // the filter follows when there is a device to name
		}
		f, p, err := a.k.programs.redirector(have.ifb.index)
		if err != nil {
			return nil, err
		}
		if made || !have.ingress.clsact {
			f.name += madeClsact
		}
		w.ingress.filters = []filter{f}
		w.programs[f.name] = func() (*ebpf.Program, error) { return a.k.programs.handle(p) }
	}
	return w, nil
}

// converge says what makes have what want is. A device that is missing comes first and alone: what hangs on it needs its index.
func (a *apply) converge(have *world, want *wanted) *converger {
	c := &converger{}
	if want.hasIFB && have.ifb.index == 0 {
		c.add(base, a.host, "ip link add "+a.ifb+" up type ifb", nil, ifbAdd(a.ifb))
		return c
	}
	program := func(name string) code {
		if p := want.programs[name]; p != nil {
			return p
		}
		return func() (*ebpf.Program, error) { return nil, fmt.Errorf("program %s: %w", name, ErrUnsupported) }
	}
	of := func(fs []filter) code {
		if len(fs) == 0 {
			return nil
		}
		return program(fs[0].name)
	}
	c.tree(a.host, have.download, want.download, of(want.download.filters))
	ifb := place{a.host.qdiscs, have.ifb.index, a.ifb}
	_, ours := have.ifb.oursFor()
	switch {
	case want.hasIFB:
		if !have.ifb.up {
			c.add(base, ifb, "ip link set "+a.ifb+" up", nil, linkUp(ifb.device))
		}
		c.tree(ifb, have.upload, want.upload, of(want.upload.filters))
	case have.ifb.index != 0 && ours:
		c.add(discardMore, ifb, "ip link del "+a.ifb, nil, linkDel(ifb.device))
	}
	if have.peer != nil {
		c.tree(a.peer, have.peer, want.peer, of(want.peer.filters))
	}
	c.ingress(a.host, have.ingress, want.ingress, of(want.ingress.filters))
	c.limits(a.k.rules, have.nodeLimits, want.nodeLimits)
	c.limits(a.inside, have.insideLimits, want.insideLimits)
	return c
}

// differences says, for people, what of w is not as in want.
func (w *world) differences(want *world) (found []string) {
	found = append(found, w.download.differences(want.download)...)
	found = append(found, w.upload.differences(want.upload)...)
	if w.peer != nil && want.peer != nil {
		found = append(found, w.peer.differences(want.peer)...)
	}
	if w.ingress.clsact != want.ingress.clsact || !slices.EqualFunc(w.ingress.filters, want.ingress.filters, filter.same) ||
		len(w.ingress.relays) != len(want.ingress.relays) {
		found = append(found, fmt.Sprintf("ingress: %+v, wanted %+v", w.ingress, want.ingress))
	}
	for _, l := range [][2][]table{{w.nodeLimits, want.nodeLimits}, {w.insideLimits, want.insideLimits}} {
		if _, texts, _ := changes(l[0], l[1]); len(texts) > 0 {
			found = append(found, "limits: "+strings.Join(texts, "; "))
		}
	}
	return found
}
