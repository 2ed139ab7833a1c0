package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"agentyard.dev/libs/tc"
)

// world is all that is ours, or may become ours, around one session's interface.
type world struct {
	download *tree
	ingress  ingress
	ifb      link // of index 0: there is none
	upload   *tree
	peer     *tree // nil: not looked at

	nodeLimits, insideLimits []table
}

// apply is one call of Apply.
type apply struct {
	k        *Kernel
	on       Interface
	host     place
	veth     link // the same
	ifb      string
	madeIFB  bool               // by this call: nothing hangs on it yet
	eased    map[queueAt]uint32 // limits of queues on their way (ease)
	easing   bool               // some of them are not there yet
	peer     place
	download *tc.Tree
	upload   *tc.Tree

	inside                   *ruleset // nil: not looked at
	nodeTable                string
	nodeLimits, insideLimits []table // that are wanted

	result Result
}

// maxRounds bounds how often what somebody else changes at the same time is corrected.
const maxRounds = 4

// Apply makes the interface hold what the plan says, and returns what it had to change. When it fails the error is an *ApplyError,
// which says what holds; it wraps ErrForeign, ErrGone, ErrUnsupported, ctx's error or the kernel's (a syscall.Errno).
func (k *Kernel) Apply(ctx context.Context, on Interface, plan *tc.Plan) (Result, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	began := time.Now()
	a := &apply{k: k, on: on, ifb: ifbName(on.Index), eased: map[queueAt]uint32{}}
	if plan.Mode != tc.Off {
		a.download, a.upload = plan.Download, plan.Upload
	}
	err := a.run(ctx, plan)
	a.result.Took = time.Since(began)
	if err == nil && a.easing {
		a.result.Again = easeEvery
	}
	return a.result, err
}

// Remove takes away all that is ours.
func (k *Kernel) Remove(ctx context.Context, on Interface) (Result, error) {
	return k.Apply(ctx, on, &tc.Plan{Format: tc.PlanFormat, Mode: tc.Off})
}

func (a *apply) run(ctx context.Context, plan *tc.Plan) error {
	fail := func(err error) error { return &ApplyError{InForce: OldEnforcement, Err: err} }
	if err := a.check(plan); err != nil {
		return fail(err)
	}
	if err := a.find(); err != nil {
		return fail(err)
	}
	if a.peer.qdiscs != nil {
		defer func() { _ = a.peer.qdiscs.socket.close() }()
	}
	err := a.findLimits(plan)
	if a.inside != nil {
		defer func() { _ = a.inside.socket.close() }()
	}
	if err != nil {
		return fail(err)
	}
	old, err := a.observe()
	if err != nil {
		return fail(err)
	}
	if err := a.foreign(old); err != nil {
		return fail(err)
	}
	keep, have := (*keepsake)(nil), old
	for range maxRounds {
		want, err := a.want(have)
		if err != nil {
			return a.undo(ctx, keep, step{}, err)
		}
		c := a.converge(have, want)
		defer c.release()
		if c.err != nil {
			return a.undo(ctx, keep, step{}, c.err)
		}
		if c.empty() {
			return nil
		}
		if keep == nil {
			if keep, err = a.keep(old, want); err != nil {
				return fail(err)
			}
			defer keep.close()
		}
		if at, err := a.execute(ctx, &c.phases); err != nil {
			return a.undo(ctx, keep, at, err)
		}
		a.madeIFB = a.madeIFB || want.hasIFB && have.ifb.index == 0
		if have, err = a.observe(); err != nil {
			return &ApplyError{InForce: UnknownEnforcement, Err: fmt.Errorf("check what was done: %w", err)}
		}
		if err := a.foreign(have); err != nil {
			return a.undo(ctx, keep, step{}, err)
		}
	}
	want, err := a.want(have)
	if err != nil {
		return a.undo(ctx, keep, step{}, err)
	}
	if found := have.differences(&want.world); len(found) > 0 {
		return &ApplyError{InForce: UnknownEnforcement, Err: fmt.Errorf("the kernel holds something else than it acknowledged: %s", strings.Join(found, "; "))}
	}
	return nil
}

// check refuses what a compiler would not make.
func (a *apply) check(plan *tc.Plan) error {
	if plan.Format > tc.PlanFormat {
		return fmt.Errorf("the plan's format is %d and this release knows %d: %w", plan.Format, tc.PlanFormat, ErrUnsupported)
	}
	if a.download != nil && a.download.Place != tc.AtHost {
		return fmt.Errorf("download at %q: %w", a.download.Place, ErrUnsupported)
	}
	if a.upload != nil && a.upload.Place != tc.AtIFB && (a.upload.Place != tc.AtPeer || a.on.Namespace == "") {
		return fmt.Errorf("upload at %q of an interface in namespace %q: %w", a.upload.Place, a.on.Namespace, ErrUnsupported)
	}
	if plan.Mode != tc.Off && len(plan.Limits) > 0 {
		inside := slices.ContainsFunc(plan.Limits, tc.Limit.Inside)
		if a.k.rules == nil || inside && a.on.Namespace == "" {
			return fmt.Errorf("limits of packets and connections of an interface in namespace %q: %w", a.on.Namespace, ErrUnsupported)
		}
	}
	for _, t := range []*tc.Tree{a.download, a.upload} {
		if t == nil {
			continue
		}
		seen := map[tc.Minor]bool{}
		for _, l := range t.Leaves {
			if l.Minor <= tc.ParentMinor || seen[l.Minor] || l.Priority > 7 || l.Rate == 0 || l.Ceiling == 0 {
				return fmt.Errorf("class %s (%s): its id, rate, ceiling or priority cannot be", l.Minor, l.Class)
			}
			seen[l.Minor] = true
		}
		if !seen[t.Default] || t.Rate == 0 {
			return fmt.Errorf("the tree at %q has no rate or no default class", t.Place)
		}
		if f := t.Fault; f != nil && (!seen[f.Class] || f.Loss != 0 && !seen[f.Lost]) {
			return fmt.Errorf("the fault of the tree at %q names a class that is not in it", t.Place)
		}
		for _, f := range t.Filters {
			if !seen[f.Class] {
				return fmt.Errorf("a filter names class %s, which is not in the tree", f.Class)
			}
		}
	}
	return nil
}

// find looks the interface up.
func (a *apply) find() error {
	l, ok, err := readLink(a.k.socket, a.on.Index, "")
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("device %d: %w", a.on.Index, ErrGone)
	}
	a.host, a.veth = place{a.k.qdiscs, l.index, l.name}, l
	if l.qdisc == "noqueue" && a.download != nil { // else an ingress alone may be there, which has no root beside it
		a.k.qdiscs.bare(l.index)
	}
	if a.on.Namespace == "" || a.k.caps.IFB && (a.upload == nil || a.upload.Place != tc.AtPeer) {
		return nil // nothing can be at the peer: a node with IFBs plans none there
	}
	s, err := dial(a.on.Namespace, 0)
	if err != nil {
		return err
	}
	s.refuse = a.k.socket.refuse
	l, ok, err = readLink(s, a.on.Peer, "")
	if err == nil && !ok {
		err = fmt.Errorf("device %d in %s: %w", a.on.Peer, a.on.Namespace, ErrGone)
	}
	if err != nil {
		_ = s.close()
		return err
	}
	a.peer = place{newQdiscs(s, nil), l.index, l.name}
	return nil
}

func (a *apply) observe() (*world, error) {
	w := &world{upload: emptyTree()}
	var err error
	if err := a.k.qdiscs.hear(); err != nil {
		return nil, err
	}
	if w.download, err = readTree(a.host.qdiscs, a.host.device); err != nil {
		return nil, fmt.Errorf("%s: %w", a.host.name, err)
	}
	if w.ingress, err = readIngress(a.host.qdiscs, a.host.device); err != nil {
		return nil, fmt.Errorf("%s: %w", a.host.name, err)
	}
	if w.ifb, _, err = readLink(a.k.socket, 0, a.ifb); err != nil {
		return nil, err
	}
	if w.ifb.index != 0 {
		if a.madeIFB {
			a.k.qdiscs.bare(w.ifb.index)
		}
		if w.upload, err = readTree(a.host.qdiscs, w.ifb.index); err != nil {
			return nil, fmt.Errorf("%s: %w", a.ifb, err)
		}
	}
	if a.peer.qdiscs != nil {
		if err := a.peer.qdiscs.hear(); err != nil {
			return nil, err
		}
		if w.peer, err = readTree(a.peer.qdiscs, a.peer.device); err != nil {
			return nil, fmt.Errorf("%s in %s: %w", a.peer.name, a.on.Namespace, err)
		}
	}
	if err := a.observeLimits(w); err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	a.k.saw(a.on.Index, w)
	return w, nil
}

// foreign refuses where others are in the way of the plan. Where it wants nothing they are not.
func (a *apply) foreign(w *world) error {
	refuse := func(where, what string) error {
		return fmt.Errorf("%s has %s: %w", where, what, ErrForeign)
	}
	if a.download != nil && w.download.foreign != "" {
		return refuse(a.host.name, w.download.foreign)
	}
	if a.upload == nil {
		return nil
	}
	switch a.upload.Place {
	case tc.AtPeer:
		if w.peer.foreign != "" {
			return refuse(a.peer.name, w.peer.foreign)
		}
	case tc.AtIFB:
		if _, ours := w.ifb.oursFor(); w.ifb.index != 0 && !ours {
			return refuse("the node", "another device called "+a.ifb)
		}
		if w.upload.foreign != "" {
			return refuse(a.ifb, w.upload.foreign)
		}
		for _, f := range w.ingress.others {
			return refuse(a.host.name, fmt.Sprintf("clsact with a %s filter of priority %d, which would not see what an IFB shapes", f.kind, f.priority))
		}
	}
	return nil
}

// execute does the phases in order. at is the step that failed.
func (a *apply) execute(ctx context.Context, p *phases) (at step, err error) {
	for _, steps := range p {
		for len(steps) > 0 { // those of one namespace at once
			n := 1
			if steps[0].rules != nil {
				if err := a.transact(ctx, steps[0]); err != nil {
					return steps[0], err
				}
				steps = steps[1:]
				continue
			}
			for n < len(steps) && steps[n].at.qdiscs == steps[0].at.qdiscs {
				n++
			}
			if at, err := a.do(ctx, steps[:n]); err != nil {
				return at, err
			}
			steps = steps[n:]
		}
	}
	return step{}, nil
}

func (a *apply) do(ctx context.Context, steps []step) (at step, err error) {
	msgs := make([]message, len(steps))
	for i, s := range steps {
		msgs[i] = s.msg
		a.result.Steps = append(a.result.Steps, s.text)
		switch s.msg.kind() {
		case unix.RTM_NEWQDISC, unix.RTM_DELQDISC, unix.RTM_DELTCLASS: // a class takes its queue along
			s.at.qdiscs.changed(s.at.device)
		}
	}
	errs, err := steps[0].at.qdiscs.socket.write(ctx, msgs)
	if err != nil {
		return steps[0], err
	}
	for i, err := range errs {
		if err != nil && !overtaken(msgs[i], err) {
			return steps[i], err
		}
	}
	return step{}, nil
}

// overtaken says that somebody was faster: it is there already, or gone already. The check that follows says whether it is as it should be.
func overtaken(m message, err error) bool {
	switch m.kind() {
	case unix.RTM_DELQDISC, unix.RTM_DELTCLASS, unix.RTM_DELTFILTER, unix.RTM_DELLINK:
		return errors.Is(err, syscall.ENOENT)
	}
	return errors.Is(err, syscall.EEXIST)
}
