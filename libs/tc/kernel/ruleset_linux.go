package kernel

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"agentyard.dev/libs/tc"
)

// ruleset knows our nft tables of one family, or of all (AF_UNSPEC), in one network namespace. What was read stays true as long as the kernel's generation of all tables
// does, which is one question, and after a transaction of our own only its tables are read again.
type ruleset struct {
	socket     *socket
	family     uint8
	known      bool
	generation uint32
	tables     map[string]table // by key
}

// key tells tables of one name in several families apart.
func (t table) key() string { return familyText(t.family) + " " + t.name }

// Names of our tables: on the node one for each session, as tc.TableName says; in a session's namespace one of each family.
var tablePrefix = tc.TableName("")

const insideName = "agentyard"

func newRuleset(s *socket, family uint8) *ruleset {
	return &ruleset{socket: s, family: family, tables: map[string]table{}}
}

// ours says whether a table of that name is ours.
func ours(name string) bool { return name == insideName || strings.HasPrefix(name, tablePrefix) }

func (r *ruleset) now() (generation uint32, err error) {
	got, ok, err := r.socket.get(netfilter(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC).end())
	if err != nil || !ok || len(got.body) < sizeofNfgenmsg {
		return 0, errors.Join(err, errIf(!ok && err == nil, syscall.EOPNOTSUPP))
	}
	for kind, v := range attrs(got.body[sizeofNfgenmsg:]) {
		if kind == unix.NFTA_GEN_ID && len(v) >= 4 {
			return network.Uint32(v), nil
		}
	}
	return 0, errMalformed
}

func errIf(b bool, err error) error {
	if b {
		return err
	}
	return nil
}

// read makes r know what is there. A ruleset that changes while it is read is read again.
func (r *ruleset) read() error {
	for range maxTorn {
		now, err := r.now()
		if err != nil {
			return fmt.Errorf("read the generation of nft tables: %w", err)
		}
		if r.known && now == r.generation {
			return nil
		}
		r.known = false
		if err := r.list(""); err != nil {
			return err
		}
		r.known, r.generation = true, now
	}
	r.known = false // it changes all the time: what was read last must do, and is asked again the next time
	return nil
}

// wrote says that we changed some tables: they are read again, and the others stay known if nobody else wrote meanwhile.
func (r *ruleset) wrote(tables []table) error {
	now, err := r.now()
	if err != nil || !r.known || now != r.generation+1 || r.family == unix.AF_UNSPEC { // of which the kernel lists the first table of a name only
		r.known = false
		return nil //nolint:nilerr // the next reading meets it
	}
	for _, t := range tables {
		if err := r.list(t.name); err != nil {
			r.known = false
			return err
		}
	}
	r.generation = now
	return nil
}

// list reads our tables, or the one of that name: its chains, and their rules. A table without chains is one that a device took its chains from.
func (r *ruleset) list(only string) error {
	about := func(kind uint16, attr uint16) message {
		e := netfilter(kind, 0, r.family)
		if only != "" {
			e.text(attr, only)
		}
		return e.end()
	}
	forget := func() {
		if only != "" {
			maps.DeleteFunc(r.tables, func(_ string, t table) bool { return t.name == only })
		} else {
			clear(r.tables)
		}
	}
	wanted := func(in table) bool { return ours(in.name) && (only == "" || only == in.name) }
	err := r.socket.dump(netfilter(unix.NFT_MSG_GETTABLE, 0, r.family).end(), forget, func(got received) error {
		if len(got.body) < sizeofNfgenmsg {
			return errMalformed
		}
		t := table{family: got.body[0]}
		for kind, v := range attrs(got.body[sizeofNfgenmsg:]) {
			if kind == unix.NFTA_TABLE_NAME {
				t.name = attrText(v)
			}
		}
		if wanted(t) {
			r.tables[t.key()] = t
		}
		return nil
	})
	if err != nil || len(r.tables) == 0 {
		return err
	}
	err = r.socket.dump(about(unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE), func() { r.each(only, func(t *table) { t.chains = nil }) }, func(got received) error {
		in, c, err := decodeChain(got.body)
		if t, ok := r.tables[in.key()]; err == nil && ok && wanted(in) {
			t.chains = append(t.chains, c)
			r.tables[in.key()] = t
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list nft chains: %w", err)
	}
	clearRules := func() {
		r.each(only, func(t *table) {
			for i := range t.chains {
				t.chains[i].rules = nil
			}
		})
	}
	err = r.socket.dump(about(unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE), clearRules, func(got received) error {
		in, at, rule, err := decodeRule(got.body)
		if err != nil || !wanted(in) {
			return err
		}
		chains := r.tables[in.key()].chains
		if i := slices.IndexFunc(chains, func(c chain) bool { return c.name == at }); i >= 0 {
			chains[i].rules = append(chains[i].rules, rule)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list nft rules: %w", err)
	}
	r.each(only, func(t *table) {
		slices.SortFunc(t.chains, func(a, b chain) int { return strings.Compare(a.name, b.name) })
	})
	return nil
}

func (r *ruleset) each(only string, f func(*table)) {
	for key, t := range r.tables {
		if only == "" || only == t.name {
			f(&t)
			r.tables[key] = t
		}
	}
}

// forDevice are the tables that limit a device, and the one of that name.
func (r *ruleset) forDevice(device, name string) (found []table) {
	for _, t := range r.tables {
		if t.name == name || slices.ContainsFunc(t.chains, func(c chain) bool { return c.device == device }) {
			found = append(found, t)
		}
	}
	return ordered(found)
}

// all are all tables of ours.
func (r *ruleset) all() (found []table) {
	for _, t := range r.tables {
		found = append(found, t)
	}
	return ordered(found)
}

func ordered(tables []table) []table {
	slices.SortFunc(tables, func(a, b table) int { return strings.Compare(a.key(), b.key()) })
	return tables
}

// changes are the messages that make the tables that are there those that are wanted, as nft would be told them, and the tables that they
// change. They are one transaction.
func changes(have, want []table) (msgs []message, texts []string, touched []table) {
	add := func(t table, m message, format string, args ...any) {
		msgs, texts = append(msgs, m), append(texts, fmt.Sprintf(format, args...))
		if !slices.ContainsFunc(touched, func(o table) bool { return o.key() == t.key() }) {
			touched = append(touched, t)
		}
	}
	find := func(in []table, t table) int {
		return slices.IndexFunc(in, func(o table) bool { return o.key() == t.key() })
	}
	for _, old := range have {
		if i := find(want, old); i < 0 || !slices.EqualFunc(old.chains, want[i].chains, chain.placed) {
			add(old, old.del(), "delete table %s", old.key())
		}
	}
	for _, t := range want {
		at := t.key()
		i := find(have, t)
		there := i >= 0 && slices.EqualFunc(have[i].chains, t.chains, chain.placed)
		if !there {
			add(t, t.add(), "add table %s", at)
		}
		for n, c := range t.chains {
			var old []rule
			if there {
				old = have[i].chains[n].rules
			} else {
				add(t, t.addChain(c), "add chain %s %s", at, c.name)
			}
			if there && len(old) == len(c.rules) {
				for k, r := range c.rules {
					if !r.same(old[k]) {
						add(t, t.addRule(c, r.inPlaceOf(old[k])), "replace rule %s %s handle %d %s", at, c.name, old[k].handle, r)
					}
				}
				continue
			}
			if len(old) > 0 {
				add(t, t.flush(c), "flush chain %s %s", at, c.name)
			}
			for _, r := range c.rules {
				r.handle = 0
				add(t, t.addRule(c, r), "add rule %s %s %s", at, c.name, r)
			}
		}
	}
	return msgs, texts, touched
}

// inPlaceOf is r as it replaces old: it goes on counting.
func (r rule) inPlaceOf(old rule) rule {
	packets, octets, ok := old.counted()
	out := rule{handle: old.handle, steps: slices.Clone(r.steps)}
	for i, s := range out.steps {
		if s.kind == kindCounter && ok {
			out.steps[i] = counts(packets, octets)
		}
	}
	return out
}

// String names the rule's expressions, for people.
func (r rule) String() string {
	var kinds []string
	for _, s := range r.steps {
		kinds = append(kinds, s.kind)
	}
	return strings.Join(kinds, " ")
}
