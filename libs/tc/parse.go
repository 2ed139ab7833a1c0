package tc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxDocument bounds what Parse reads, in bytes.
const MaxDocument = 1 << 20

// Parse reads one policy, YAML or JSON (which is YAML), and validates it. The error is Problems: everything that is wrong, each with its
// place in the document. Unknown fields, anchors and fields given twice are refused.
func Parse(data []byte) (Policy, error) {
	all, err := ParseAll(data)
	switch {
	case err != nil:
		return Policy{}, err
	case len(all) != 1:
		return Policy{}, Problems{{Rule: RuleSyntax, Detail: fmt.Sprintf("it holds %d policies", len(all)), Remedy: "write one"}}
	}
	return all[0], nil
}

// ParseAll reads the policies of a file with several documents (---). In Problems of a file with several, the first token of the
// pointer is the document, from 0.
func ParseAll(data []byte) ([]Policy, error) {
	if len(data) > MaxDocument {
		return nil, Problems{{Rule: RuleCount, Detail: fmt.Sprintf("it is longer than %d bytes", MaxDocument), Remedy: "split it"}}
	}
	nodes, err := documents(data)
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return nil, Problems{{Rule: RuleSyntax, Detail: "it holds no policy", Remedy: "look at the example in the README"}}
	}
	var policies []Policy
	var problems Problems
	for i, n := range nodes {
		p, wrong := decodePolicy(n)
		for _, w := range wrong {
			if len(nodes) > 1 {
				w.Pointer = pointer("", i) + w.Pointer
			}
			problems = append(problems, w)
		}
		policies = append(policies, p)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return policies, nil
}

// documents are the roots of the documents that are not empty.
func documents(data []byte) ([]*yaml.Node, error) {
	if n, ok := jsonNode(data); ok {
		return []*yaml.Node{n}, nil
	}
	var nodes []*yaml.Node
	for docs := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc yaml.Node
		err := docs.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, Problems{syntax(err)}
		}
		if len(doc.Content) == 1 && doc.Content[0].Tag != "!!null" {
			nodes = append(nodes, doc.Content[0])
		}
	}
	return nodes, nil
}

// decodePolicy reads and validates one. What could not be read is not validated as well.
func decodePolicy(n *yaml.Node) (Policy, Problems) {
	var p Policy
	d := decoder{lines: map[string]int{}}
	d.decode("", n, reflect.ValueOf(&p).Elem(), 0)
	problems := d.problems
	for _, v := range p.Validate() {
		if slices.ContainsFunc(d.problems, func(read Problem) bool { return related(read.Pointer, v) }) {
			continue
		}
		v.Line = d.line(v.Pointer)
		problems = append(problems, v)
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return a.Line - b.Line })
	return p, problems
}

// related says whether a problem of validation may only follow from a value that could not be read.
func related(read string, v Problem) bool {
	if read == v.Pointer || strings.HasPrefix(v.Pointer, read+"/") {
		return true
	}
	if v.Rule == RuleEmpty || v.Rule == RuleDefault && strings.HasSuffix(read, "/default") {
		return true
	}
	// An empty match whose criterion was wrong is not empty.
	return v.Rule == RuleEmptyMatch && strings.HasPrefix(read, v.Pointer+"/")
}

// line is that of the pointer, or of the nearest value around it.
func (d *decoder) line(pointer string) int {
	for {
		if n, ok := d.lines[pointer]; ok {
			return n
		}
		cut := strings.LastIndexByte(pointer, '/')
		if cut < 0 {
			return 0
		}
		pointer = pointer[:cut]
	}
}

var yamlLine = regexp.MustCompile(`line (\d+):? *`)

// syntax is the parser's own complaint.
func syntax(err error) Problem {
	p := Problem{Rule: RuleSyntax, Remedy: "indent with spaces, and quote texts with : or #"}
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if at := yamlLine.FindStringSubmatch(text); at != nil {
		p.Line, _ = strconv.Atoi(at[1])
		text = strings.Replace(text, at[0], "", 1)
	}
	p.Detail = text
	return p
}

// YAML is the policy in the form that Parse reads, its fields in the order of the type.
func (p Policy) YAML() ([]byte, error) {
	data, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("write policy: %w", err)
	}
	var n yaml.Node
	if err := yaml.Unmarshal(data, &n); err != nil { // JSON is YAML, and a node keeps its order
		return nil, fmt.Errorf("write policy: %w", err)
	}
	block(&n)
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(&n), enc.Close()); err != nil {
		return nil, fmt.Errorf("write policy: %w", err)
	}
	return out.Bytes(), nil
}

// block takes JSON's style away, but for short lists.
func block(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.SequenceNode && !slices.ContainsFunc(n.Content, func(c *yaml.Node) bool { return c.Kind != yaml.ScalarNode }) {
		n.Style = yaml.FlowStyle
	}
	for _, c := range n.Content {
		block(c)
	}
}
