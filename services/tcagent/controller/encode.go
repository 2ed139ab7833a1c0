package controller

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"

	"agentyard.dev/libs/tc"
)

// A policy's change makes thousands of plans that differ in nothing but the session, for nodes that can all do the same. What the last one took to
// encode, and the last node's capabilities to decode, is kept: a third of what a plan costs.

// encoded is a plan without its session, and its canonical JSON around that.
type encoded struct {
	plan          tc.Plan
	before, after []byte
}

// able is what a node can do, as it reported it and decoded.
type able struct {
	raw []byte
	can tc.Capabilities
}

// encode returns the plan's Bytes.
func (c *Controller) encode(p *tc.Plan) []byte {
	alike := *p
	alike.Session = ""
	session, err := json.Marshal(p.Session)
	if err != nil {
		return p.Bytes()
	}
	if last := c.last.Load(); last != nil && reflect.DeepEqual(last.plan, alike) {
		return slices.Concat(last.before, session, last.after)
	}
	whole := p.Bytes()
	const field = `"session":` // the second of a plan's fields, behind a number
	if before, after, ok := bytes.Cut(whole, slices.Concat([]byte(field), session)); ok {
		c.last.Store(&encoded{plan: alike, before: slices.Concat(before, []byte(field)), after: after})
	}
	return whole
}
