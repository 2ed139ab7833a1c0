package tc

import (
	"fmt"
	"strings"
)

// Rule names what a Problem breaks. The names are stable: programs may act on them.
type Rule string

// The rules.
const (
	RuleSyntax     Rule = "syntax"      // the document is not YAML or JSON of this vocabulary
	RuleUnknown    Rule = "unknown"     // no such field
	RuleUnit       Rule = "unit"        // not a value of the field's kind
	RuleName       Rule = "name"        // a name that is missing, malformed or given twice
	RuleValue      Rule = "value"       // not one of the values, or out of its range
	RuleSum        Rule = "sum"         // the guarantees are more than the link
	RuleCeiling    Rule = "ceiling"     // a guarantee or class above its ceiling
	RuleDefault    Rule = "default"     // not exactly one default class
	RuleEmptyMatch Rule = "empty-match" // a match that names no traffic
	RuleReach      Rule = "reach"       // a class that no packet reaches
	RuleBurst      Rule = "burst"       // a burst that the rate cannot have
	RuleLatency    Rule = "latency"     // a latency that the rate cannot have
	RuleCount      Rule = "count"       // more than a kernel, or we, hold
	RuleSchedule   Rule = "schedule"    // a window or zone that is none
	RuleEmpty      Rule = "empty"       // a policy that demands nothing
)

// Problem is one thing that is wrong with a policy, said so that a person can put it right.
type Problem struct {
	Pointer string `json:"pointer"`        // RFC 6901, into the document
	Line    int    `json:"line,omitempty"` // of the document, from 1; 0: unknown
	Rule    Rule   `json:"rule"`
	Detail  string `json:"detail"` // what is wrong
	Remedy  string `json:"remedy"` // what to do
}

// String is one line.
func (p Problem) String() string {
	var where string
	if p.Line > 0 {
		where = fmt.Sprintf("line %d: ", p.Line)
	}
	if p.Pointer != "" { // else it is the whole document
		where += p.Pointer + ": "
	}
	return fmt.Sprintf("%s%s; %s (%s)", where, p.Detail, p.Remedy, p.Rule)
}

// Problems is everything that is wrong, in the order of the document. As an error it is never empty.
type Problems []Problem

// Error is one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// pointer is base and one token more, escaped as RFC 6901 says.
func pointer(base string, token any) string {
	return base + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(fmt.Sprint(token))
}
