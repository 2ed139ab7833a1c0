package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"agentyard.dev/libs/tc"
)

// limitsOf are the tables of a plan's limits, on the node and in the session's namespace.
func limitsOf(p *tc.Plan, host, peer string) (node, inside []table) {
	put := func(in *[]table, family uint8, name string, c chain, r rule) {
		at := slices.IndexFunc(*in, func(t table) bool { return t.family == family })
		if at < 0 {
			at = len(*in)
			*in = append(*in, table{family: family, name: name})
		}
		t := &(*in)[at]
		if i := slices.IndexFunc(t.chains, func(o chain) bool { return o.name == c.name }); i >= 0 {
			t.chains[i].rules = append(t.chains[i].rules, r)
			return
		}
		c.rules = []rule{r}
		t.chains = append(t.chains, c)
		slices.SortFunc(t.chains, func(a, b chain) int { return strings.Compare(a.name, b.name) })
	}
	if p.Mode == tc.Off {
		return nil, nil
	}
	for _, l := range p.Limits {
		c := chain{name: string(l.Direction), accept: true}
		var r rule
		if l.Kind == tc.PacketRate {
			c.hook, c.device = unix.NF_NETDEV_EGRESS, host
			r.steps = []expression{overRate(l.Rate, l.Burst)}
		} else {
			c.hook, r.steps = unix.NF_INET_LOCAL_IN, notLoopback(unix.NFT_META_IIFNAME)
			if l.Direction == tc.Upload {
				c.hook, r.steps = unix.NF_INET_LOCAL_OUT, notLoopback(unix.NFT_META_OIFNAME)
			}
			over := overCount(l.Count)
			if l.Kind == tc.ConnectionRate {
				over = overRate(l.Rate, l.Burst)
			}
			r.steps = append(append(r.steps, isNew()...), over)
		}
		r.steps = append(r.steps, counts(0, 0))
		if p.Mode == tc.Enforce {
			r.steps = append(r.steps, drop())
		}
		switch {
		case l.Kind != tc.PacketRate:
			put(&inside, unix.NFPROTO_INET, insideName, c, r)
		case l.Inside():
			c.device = peer
			put(&inside, unix.NFPROTO_NETDEV, insideName, c, r)
		default:
			if l.Direction == tc.Upload {
				c.hook = unix.NF_NETDEV_INGRESS
			}
			put(&node, unix.NFPROTO_NETDEV, tc.TableName(p.Session), c, r)
		}
	}
	return ordered(node), ordered(inside)
}

// limits adds the transaction that makes the tables of one namespace those that are wanted.
func (c *converger) limits(at *ruleset, have, want []table) {
	if at == nil {
		return
	}
	msgs, texts, touched := changes(have, want)
	if len(msgs) == 0 {
		return
	}
	c.phases[limit] = append(c.phases[limit], step{text: "nft '" + strings.Join(texts, "; ") + "'", rules: at, batch: msgs, touched: touched})
}

// transact does a step of the phase limit.
func (a *apply) transact(ctx context.Context, s step) error {
	a.result.Steps = append(a.result.Steps, s.text)
	s.rules.socket.refuse = a.k.socket.refuse
	if err := s.rules.socket.transact(ctx, s.batch); err != nil {
		return err
	}
	if s.rules != a.k.rules {
		a.k.socket.writes.Add(uint64(len(s.batch))) // the other's socket ends with this call
	}
	return s.rules.wrote(s.touched)
}

// findLimits opens what is needed to see the limits that are there: those in the session's namespace are looked for once, and then only for who has some.
func (a *apply) findLimits(plan *tc.Plan) error {
	if a.k.rules == nil {
		return nil
	}
	inside := plan.Mode != tc.Off && slices.ContainsFunc(plan.Limits, tc.Limit.Inside)
	peer := ""
	if inside || a.on.Namespace != "" && a.k.limitedInside(a.on) {
		s, err := enter(a.k.socket, a.on, a.veth)
		switch {
		case err == nil:
			a.inside = newRuleset(s, unix.AF_UNSPEC)
		case inside:
			return err
		} // else it has ended, with all that was in it
		if peer = a.peer.name; peer == "" && inside {
			if peer, err = nameIn(a.on.Namespace, a.on.Peer); err != nil {
				return err
			}
		}
	}
	a.nodeLimits, a.insideLimits = limitsOf(plan, a.host.name, peer)
	a.nodeTable = tc.TableName(plan.Session)
	return nil
}

// enter opens the network namespace of a session with a veth. What is named by a process may be another's by now: it is asked whether the veth leads there.
func enter(node *socket, on Interface, veth link) (*socket, error) {
	gone := func(err error) error {
		return fmt.Errorf("network namespace %s of %s: %w: %w", on.Namespace, veth.name, ErrGone, err)
	}
	number, err := namespaceNumber(node, on.Namespace)
	if err != nil {
		return nil, gone(err)
	}
	if !veth.foreign || veth.peerNS != number {
		return nil, gone(errors.New("the veth leads to another"))
	}
	s, err := dialTo(on.Namespace, unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, gone(err)
	}
	return s, nil
}

func nameIn(namespace string, device int) (string, error) {
	s, err := dial(namespace, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = s.close() }()
	l, ok, err := readLink(s, device, "")
	if err == nil && !ok {
		err = fmt.Errorf("device %d in %s: %w", device, namespace, ErrGone)
	}
	return l.name, err
}

// observeLimits reads the tables that limit the session.
func (a *apply) observeLimits(w *world) error {
	if a.k.rules == nil {
		return nil
	}
	if err := a.k.rules.read(); err != nil {
		return err
	}
	w.nodeLimits = a.k.rules.forDevice(a.host.name, a.nodeTable)
	if a.inside == nil {
		return nil
	}
	if err := a.inside.read(); err != nil {
		return fmt.Errorf("%s: %w", a.on.Namespace, err)
	}
	w.insideLimits = a.inside.all()
	a.k.sawInside(a.on, len(w.insideLimits) > 0)
	return nil
}

// limitedInside says whether something of ours may be in a session's namespace.
func (k *Kernel) limitedInside(on Interface) bool {
	k.seenMu.Lock()
	defer k.seenMu.Unlock()
	limited, seen := k.inside[on]
	return limited || !seen
}

// maxInside bounds what is remembered; what is forgotten is looked for again.
const maxInside = 1 << 14

func (k *Kernel) sawInside(on Interface, limited bool) {
	k.seenMu.Lock()
	defer k.seenMu.Unlock()
	if len(k.inside) >= maxInside {
		clear(k.inside)
	}
	k.inside[on] = limited
}

// sweepLimits deletes the tables of sessions whose device is gone.
func (k *Kernel) sweepLimits(ctx context.Context, there map[string]bool) (deleted []string, err error) {
	if k.rules == nil {
		return nil, nil
	}
	if err := k.rules.read(); err != nil {
		return nil, err
	}
	var msgs []message
	var gone []table
	for _, t := range k.rules.all() {
		if !slices.ContainsFunc(t.chains, func(c chain) bool { return there[c.device] }) {
			msgs, gone, deleted = append(msgs, t.del()), append(gone, t), append(deleted, "table "+t.key())
		}
	}
	if len(msgs) == 0 {
		return nil, nil
	}
	if err := k.rules.socket.transact(ctx, msgs); err != nil {
		return nil, fmt.Errorf("delete tables of devices that are gone: %w", err)
	}
	return deleted, k.rules.wrote(gone)
}

// CountLimits reads what the limits of plans have caught at interfaces, for each in the order of its plan's limits; nil where nothing can be read.
// An Apply waits while the node's tables are read, not while those of sessions are.
func (k *Kernel) CountLimits(on []Interface, plans []*tc.Plan) ([][]LimitCounter, error) {
	out := make([][]LimitCounter, len(on))
	if k.rules == nil || !slices.ContainsFunc(plans, func(p *tc.Plan) bool { return len(p.Limits) > 0 }) {
		return out, nil
	}
	node, err := k.countedTables()
	if err != nil {
		return nil, err
	}
	for i, plan := range plans {
		inside := []table(nil)
		if slices.ContainsFunc(plan.Limits, tc.Limit.Inside) {
			if inside, err = k.readInside(on[i]); err != nil {
				continue // the session has ended
			}
		}
		of := table{family: unix.NFPROTO_NETDEV, name: tc.TableName(plan.Session)}
		out[i] = caught(plan, []table{node[of.key()]}, inside)
	}
	return out, nil
}

// countedTables are the node's tables with their counters, by key.
func (k *Kernel) countedTables() (map[string]table, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rules.known = false // counters grow without a new generation
	if err := k.rules.read(); err != nil {
		return nil, err
	}
	return maps.Clone(k.rules.tables), nil // what is in a table is read anew, never changed
}

// readInside reads the tables in the network namespace of an interface's session.
func (k *Kernel) readInside(on Interface) ([]table, error) {
	veth, ok, err := readLink(k.socket, on.Index, "")
	if err != nil || !ok {
		return nil, errors.Join(err, errIf(!ok, ErrGone))
	}
	s, err := enter(k.socket, on, veth)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.close() }()
	rules := newRuleset(s, unix.AF_UNSPEC)
	if err := rules.read(); err != nil {
		return nil, err
	}
	return rules.all(), nil
}

// caught finds the counter of each limit: the rules of a chain are in the order of the plan.
func caught(plan *tc.Plan, node, inside []table) (out []LimitCounter) {
	next := map[string]int{}
	for _, l := range plan.Limits {
		from, family := node, uint8(unix.NFPROTO_NETDEV)
		if l.Inside() {
			from = inside
		}
		if l.Kind != tc.PacketRate {
			family = unix.NFPROTO_INET
		}
		c := LimitCounter{Kind: l.Kind, Direction: l.Direction}
		for _, t := range from {
			i := slices.IndexFunc(t.chains, func(c chain) bool { return c.name == string(l.Direction) })
			if t.family != family || i < 0 {
				continue
			}
			at := t.key() + " " + t.chains[i].name
			if n := next[at]; n < len(t.chains[i].rules) {
				c.Packets, c.Bytes, _ = t.chains[i].rules[n].counted()
			}
			next[at]++
		}
		out = append(out, c)
	}
	return out
}
