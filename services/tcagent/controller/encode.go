package controller

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	json "github.com/go-json-experiment/json/v1"

	"agentyard.dev/libs/tc"
)

// A policy's change makes thousands of plans that differ in nothing but the session. What one took to compile and to encode, and the last node's
// capabilities to decode, is kept: nearly all of what a plan costs.

// shape is a plan but for its session: the canonical JSON around that.
type shape struct {
	of            alike
	at, until     time.Time // for which it was compiled; until zero: for ever
	before, after []byte
	hash          string // of what text returns without a session
}

// alike is what a plan depends on besides its session and the time.
type alike struct {
	set  *tc.Set
	like string // tc.Set.Alike
	can  string // the node's capabilities as it reported them
}

// able is what a node can do, as it reported it and decoded.
type able struct {
	raw []byte
	can tc.Capabilities
}

// shaped compiles the plan of a session for a node at a time.
func (c *Controller) shaped(set *tc.Set, s tc.Session, raw []byte, can tc.Capabilities, now time.Time) (*shape, error) {
	of := alike{set: set, like: set.Alike(s), can: string(raw)}
	if last := c.last.Load(); last != nil && last.of == of && !now.Before(last.at) && (last.until.IsZero() || now.Before(last.until)) {
		return last, nil
	}
	s.ID = ""
	plan, effective := set.Compile(s, can, now)
	c.metrics.compiled.Inc()
	next, err := shapeOf(plan.Bytes())
	if err != nil {
		return nil, fmt.Errorf("compile plan: %w", err)
	}
	next.of, next.at, next.until = of, now, effective.Until
	c.last.Store(next)
	return next, nil
}

// shapeOf reads a plan's Bytes without a session.
func shapeOf(text []byte) (*shape, error) {
	const session = `"session":` // the second of a plan's fields, behind a number
	before, after, ok := bytes.Cut(text, []byte(session+`""`))
	if !ok {
		return nil, fmt.Errorf("the plan %s is not without a session", text)
	}
	return &shape{before: slices.Concat(before, []byte(session)), after: after, hash: tc.HashPlan(text)}, nil
}

// text is the plan's Bytes for a session; empty: as many share it.
func (s *shape) text(session string) []byte {
	name, err := json.Marshal(session)
	if err != nil { // no text is no JSON
		name = []byte(`""`)
	}
	return slices.Concat(s.before, name, s.after)
}

// is reports whether text is the plan's Bytes for a session.
func (s *shape) is(text []byte, session string) bool {
	rest, ok := bytes.CutPrefix(text, s.before)
	if !ok {
		return false
	}
	name, ok := bytes.CutSuffix(rest, s.after)
	return ok && len(name) == len(session)+2 && string(name[1:len(name)-1]) == session // an id needs no escape
}
