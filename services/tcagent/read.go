package tcagent

import (
	"strings"
	"unicode/utf8"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/tc"
)

// received is a plan's record as it came.
type received struct {
	api.TrafficPlanRecord
	plan *tc.Plan // read together with the rest; nil: not yet (decode)
}

// readChange reads a change of PLANS that says no more than that a plan is new, as the controller writes it. It is what a JSON library makes of it, at a tenth of its cost: where a policy
// changes the plans of all nodes, most of the work is to read them. Of anything else ok is false.
func readChange(data []byte) (c api.Change[received], ok bool) {
	text, s, at := string(data), &c.State, ""
	rest := text
	for _, f := range [...]struct {
		begins string
		to     *string
	}{
		{`{"rev":0,"at":"`, &at},
		{`,"actor":"`, &c.Actor},
		{`,"verb":"`, &c.Verb},
		{`,"state":{"node":"`, &s.Node},
		{`,"tenant":"`, &s.Tenant},
		{`,"session":"`, &s.Session},
		{`,"hash":"`, &s.Hash},
	} {
		if *f.to, rest, ok = cutString(rest, f.begins); !ok {
			return c, false
		}
	}
	if c.At.UnmarshalText([]byte(at)) != nil {
		return c, false
	}
	if rest, ok = strings.CutPrefix(rest, `,"plan":`); !ok {
		return c, false
	}
	from := len(text) - len(rest)
	if s.plan, rest, ok = tc.CutPlan(rest); !ok {
		return c, false
	}
	s.Plan = data[from : len(text)-len(rest) : len(text)-len(rest)]
	if value, after, ok := cutString(rest, `,"address":"`); ok {
		s.Address, rest = value, after
	}
	if value, after, ok := cutString(rest, `,"group":"`); ok {
		s.Group, rest = value, after
	}
	return c, rest == "}}"
}

// cutString reads the string that text has behind begins. One that is not plain ASCII is not known.
func cutString(text, begins string) (s, after string, ok bool) {
	rest, ok := strings.CutPrefix(text, begins)
	if !ok {
		return "", text, false
	}
	s, after, ok = strings.Cut(rest, `"`)
	for i := range len(s) {
		ok = ok && s[i] >= ' ' && s[i] != '\\' && s[i] < utf8.RuneSelf
	}
	return s, after, ok
}
