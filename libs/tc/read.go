package tc

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ReadPlan reads a plan's JSON. It is [json.Unmarshal], but for what it costs: what [Plan.Bytes] writes, which is what nodes are sent, takes a tenth.
func ReadPlan(text []byte) (*Plan, error) {
	if p, rest, ok := CutPlan(string(text)); ok && rest == "" {
		return p, nil
	}
	p := &Plan{}
	if err := json.Unmarshal(text, p); err != nil {
		return nil, fmt.Errorf("read plan: %w", err)
	}
	return p, nil
}

// CutPlan reads the plan that text begins with, and returns what follows it. It knows only what [Plan.Bytes] writes: ok is false for anything else, be it a
// plan or not. The plan refers to text.
func CutPlan(text string) (p *Plan, rest string, ok bool) {
	r := reader{rest: text}
	p = r.plan()
	return p, r.rest, !r.lost
}

// reader reads JSON without spaces, whose fields come in one order, from its beginning. A field that does not come is absent, as everywhere; when something comes that it does not know
// it is lost, and what it has read is worth nothing.
type reader struct {
	rest string
	lost bool
}

// skip passes over what, if that comes next.
func (r *reader) skip(what string) (ok bool) {
	r.rest, ok = strings.CutPrefix(r.rest, what)
	return ok
}

// need passes over what has to come next.
func (r *reader) need(what string) { r.lost = !r.skip(what) || r.lost }

// value reads a string without escapes.
func (r *reader) value() string {
	r.need(`"`)
	for i := range len(r.rest) {
		switch c := r.rest[i]; {
		case c == '"':
			s := r.rest[:i]
			r.rest = r.rest[i+1:]
			return s
		case c == '\\' || c < ' ' || c >= utf8.RuneSelf:
			r.lost = true
			return ""
		}
	}
	r.lost = true
	return ""
}

// number reads one of so many bits that has no sign.
func (r *reader) number(bits int) uint64 {
	end := 0
	for end < len(r.rest) && '0' <= r.rest[end] && r.rest[end] <= '9' {
		end++
	}
	n, err := strconv.ParseUint(r.rest[:end], 10, bits)
	if err != nil || end > 1 && r.rest[0] == '0' {
		r.lost = true
	}
	r.rest = r.rest[end:]
	return n
}

// Fields: each is read behind what begins it.

func (r *reader) text(field string) string {
	if !r.skip(field) {
		return ""
	}
	return r.value()
}

func (r *reader) uint(field string, bits int) uint64 {
	if !r.skip(field) {
		return 0
	}
	return r.number(bits)
}

func (r *reader) octet(field string) *uint8 {
	if !r.skip(field) {
		return nil
	}
	n := uint8(r.number(8))
	return &n
}

func parsed[T any](r *reader, field string, parse func(string) (T, error)) (v T) {
	if !r.skip(field) {
		return v
	}
	v, err := parse(r.value())
	r.lost = r.lost || err != nil
	return v
}

func list[T any](r *reader, field string, one func(*reader) T) []T {
	if !r.skip(field) {
		return nil
	}
	all := make([]T, 0, 4)
	for r.need("["); !r.lost; {
		if all = append(all, one(r)); !r.skip(",") {
			break
		}
	}
	r.need("]")
	return all
}

func (r *reader) plan() *Plan {
	r.need(`{"format":`)
	p := &Plan{
		Format:   int(r.number(31)),
		Session:  r.text(`,"session":`),
		Mode:     Mode(r.text(`,"mode":`)),
		Download: r.tree(`,"download":`),
		Upload:   r.tree(`,"upload":`),
		Limits:   list(r, `,"limits":`, (*reader).limit),
		Degraded: list(r, `,"degraded":`, (*reader).value),
	}
	r.need("}")
	return p
}

// tree reads one that has no fault: faults are put in by who has read it.
func (r *reader) tree(field string) *Tree {
	if !r.skip(field) {
		return nil
	}
	r.need(`{"place":`)
	t := &Tree{
		Place:     Place(r.value()),
		Rate:      parsed(r, `,"rate":`, ParseRate),
		Burst:     parsed(r, `,"burst":`, ParseBytes),
		Guarantee: parsed(r, `,"guarantee":`, ParseRate),
		Default:   Minor(r.uint(`,"default":`, 16)),
		MTU:       uint32(r.uint(`,"mtu":`, 32)),
		Leaves:    list(r, `,"leaves":`, (*reader).leaf),
		Filters:   list(r, `,"filters":`, (*reader).filter),
	}
	r.need("}")
	return t
}

func (r *reader) leaf() Leaf {
	r.need(`{"minor":`)
	l := Leaf{
		Minor:        Minor(r.number(16)),
		Class:        r.text(`,"class":`),
		Rate:         parsed(r, `,"rate":`, ParseRate),
		Ceiling:      parsed(r, `,"ceiling":`, ParseRate),
		Burst:        parsed(r, `,"burst":`, ParseBytes),
		CeilingBurst: parsed(r, `,"ceiling_burst":`, ParseBytes),
		Priority:     uint8(r.uint(`,"priority":`, 8)),
		Quantum:      parsed(r, `,"quantum":`, ParseBytes),
		Queue:        r.queue(`,"queue":`),
	}
	r.need("}")
	return l
}

// queue reads one that is no fault's.
func (r *reader) queue(field string) (q Queue) {
	if !r.skip(field) {
		return q
	}
	r.need(`{"kind":`)
	q = Queue{
		Kind:     QueueKind(r.value()),
		Limit:    parsed(r, `,"limit":`, ParseBytes),
		Packets:  uint32(r.uint(`,"packets":`, 32)),
		Target:   parsed(r, `,"target":`, ParseDuration),
		Interval: parsed(r, `,"interval":`, ParseDuration),
		Quantum:  parsed(r, `,"quantum":`, ParseBytes),
		ECN:      r.skip(`,"ecn":true`),
	}
	r.need("}")
	return q
}

func (r *reader) filter() Filter {
	r.need(`{"class":`)
	f := Filter{
		Class:    Minor(r.number(16)),
		Family:   Family(r.uint(`,"family":`, 8)),
		Protocol: r.octet(`,"protocol":`),
		Src:      parsed(r, `,"src":`, netip.ParsePrefix),
		Dst:      parsed(r, `,"dst":`, netip.ParsePrefix),
		SrcPorts: parsed(r, `,"src_ports":`, ParsePorts),
		DstPorts: parsed(r, `,"dst_ports":`, ParsePorts),
		DSCP:     r.octet(`,"dscp":`),
	}
	r.need("}")
	return f
}

func (r *reader) limit() Limit {
	r.need(`{"kind":`)
	l := Limit{
		Kind:      LimitKind(r.value()),
		Direction: Direction(r.text(`,"direction":`)),
		Place:     Place(r.text(`,"place":`)),
		Rate:      uint32(r.uint(`,"rate":`, 32)),
		Burst:     uint32(r.uint(`,"burst":`, 32)),
		Count:     uint32(r.uint(`,"count":`, 32)),
	}
	r.need("}")
	return l
}
