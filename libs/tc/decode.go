package tc

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder reads a YAML tree into structs by their json tags. It goes on after each problem, so that a document's are all found in one go.
type decoder struct {
	problems Problems
	lines    map[string]int // of each pointer
}

// maxDepth is more than the vocabulary nests.
const maxDepth = 20

func (d *decoder) complain(at string, n *yaml.Node, rule Rule, remedy, format string, args ...any) {
	d.problems = append(d.problems, Problem{Pointer: at, Line: n.Line, Rule: rule, Detail: fmt.Sprintf(format, args...), Remedy: remedy})
}

// decode reads n into v.
func (d *decoder) decode(at string, n *yaml.Node, v reflect.Value, depth int) {
	d.lines[at] = n.Line
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.complain(at, n, RuleSyntax, "write the value out", "anchors and aliases are not read")
		return
	}
	if depth > maxDepth {
		d.complain(at, n, RuleSyntax, "look at the example in the README", "it is nested too deeply")
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // as if it were not there
	}
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(at, n, text)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.decode(at, n, v.Elem(), depth+1)
	case reflect.Struct:
		d.mapping(at, n, v, depth)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.complain(at, n, RuleSyntax, "write a list, such as [a, b]", "it is %s and not a list", describe(n))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, item := range n.Content {
			d.decode(pointer(at, i), item, v.Index(i), depth+1)
		}
	case reflect.Map:
		d.strings(at, n, v, depth)
	default:
		d.scalar(at, n, v)
	}
}

// text reads what has a form of its own: rates, sizes, prefixes, ports.
func (d *decoder) text(at string, n *yaml.Node, v encoding.TextUnmarshaler) {
	if n.Kind != yaml.ScalarNode {
		d.complain(at, n, RuleUnit, "write a single value", "it is %s", describe(n))
		return
	}
	if err := v.UnmarshalText([]byte(n.Value)); err != nil {
		detail, remedy, _ := strings.Cut(err.Error(), "; ")
		if remedy == "" {
			remedy = "write a prefix, such as 192.0.2.0/24 or 2001:db8::/32" // netip.Prefix is the only one that is not ours
		}
		d.complain(at, n, RuleUnit, remedy, "%s", detail)
	}
}

func (d *decoder) scalar(at string, n *yaml.Node, v reflect.Value) {
	var want string
	ok := n.Kind == yaml.ScalarNode
	switch v.Kind() {
	case reflect.String:
		want = "a text"
		// A number is as good: dscp: 46.
		if ok = ok && (n.Tag == "!!str" || n.Tag == "!!int"); ok {
			v.SetString(n.Value)
		}
	case reflect.Bool:
		want = "true or false"
		if ok = ok && (n.Value == "true" || n.Value == "false"); ok {
			v.SetBool(n.Value == "true")
		}
	case reflect.Int, reflect.Uint32:
		want = "a whole number"
		var i int64
		var err error
		if ok {
			i, err = strconv.ParseInt(n.Value, 10, 64)
		}
		if ok = ok && err == nil && n.Tag == "!!int"; !ok {
			break
		}
		if v.Kind() == reflect.Int {
			if ok = !v.OverflowInt(i); ok {
				v.SetInt(i)
			}
		} else if ok = i >= 0 && !v.OverflowUint(uint64(i)); ok {
			v.SetUint(uint64(i))
		}
	default:
		panic("tc: the vocabulary has a field of kind " + v.Kind().String())
	}
	if !ok {
		d.complain(at, n, RuleUnit, "write "+want, "it is %s and not %s", describe(n), want)
	}
}

// strings reads a map of strings.
func (d *decoder) strings(at string, n *yaml.Node, v reflect.Value, depth int) {
	if n.Kind != yaml.MappingNode {
		d.complain(at, n, RuleSyntax, "write key: value", "it is %s and not a mapping", describe(n))
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], reflect.New(v.Type().Elem()).Elem()
		d.decode(pointer(at, key.Value), n.Content[i+1], value, depth+1)
		v.SetMapIndex(reflect.ValueOf(key.Value), value)
	}
}

// mapping reads a struct and refuses fields that it has not.
func (d *decoder) mapping(at string, n *yaml.Node, v reflect.Value, depth int) {
	if n.Kind != yaml.MappingNode {
		d.complain(at, n, RuleSyntax, "write it as field: value; the fields are "+strings.Join(fieldNames(v.Type()), ", "), "it is %s and not a mapping", describe(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		where := pointer(at, key.Value)
		field, ok := fieldOf(v, key.Value)
		switch {
		case key.Kind != yaml.ScalarNode || !ok:
			d.complain(where, key, RuleUnknown, "the fields here are "+strings.Join(fieldNames(v.Type()), ", "), "there is no field %q", key.Value)
		case seen[key.Value]:
			d.complain(where, key, RuleSyntax, "keep one", "field %q stands there twice", key.Value)
		default:
			seen[key.Value] = true
			d.decode(where, n.Content[i+1], field, depth+1)
		}
	}
}

// fieldOf is the field of that JSON name, embedded ones included.
func fieldOf(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			if found, ok := fieldOf(v.Field(i), name); ok {
				return found, true
			}
			continue
		}
		if n := jsonName(f); n == name && n != "-" {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		if f := t.Field(i); f.Anonymous {
			names = append(names, fieldNames(f.Type)...)
		} else if n := jsonName(f); n != "-" {
			names = append(names, n)
		}
	}
	return names
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	return fmt.Sprintf("%.40q", n.Value)
}
