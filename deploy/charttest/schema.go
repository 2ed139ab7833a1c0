package charttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Schema returns the values.schema.json of a chart, from its values.yaml: each value's comment is its description, its default gives the
// type, and a comment line "@schema key: value, …" adds to it. A value without a sentence, or whose type
// cannot be told, is an error; so nothing in a schema is undescribed, and nothing that it does not name is accepted.
func Schema(dir string) ([]byte, error) {
	deps, err := dependencies(dir)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "values.yaml")
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	root, err := object(doc.Content[0], "", deps)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, dep := range deps {
		if props := root["properties"].(map[string]any); props[dep] == nil {
			props[dep] = map[string]any{"type": "object", "description": "Values of the chart " + dep + "."}
		}
	}
	root["$schema"] = "http://json-schema.org/draft-07/schema#"
	root["title"] = "Values of the chart " + filepath.Base(dir)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(root); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// dependencies returns the names of the charts that a chart depends on.
func dependencies(dir string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "Chart.yaml"))
	if err != nil {
		return nil, err
	}
	var c struct{ Dependencies []struct{ Name string } }
	if err := yaml.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("%s/Chart.yaml: %w", dir, err)
	}
	var names []string
	for _, d := range c.Dependencies {
		names = append(names, d.Name)
	}
	return names, nil
}

// object returns the schema of a mapping whose keys are all known. What belongs to a chart in deps that chart's own schema describes.
func object(n *yaml.Node, at string, deps []string) (map[string]any, error) {
	props := map[string]any{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		where := at + "/" + key.Value
		s, err := property(key, value, where)
		if err != nil {
			return nil, err
		}
		if at == "" && slices.Contains(deps, key.Value) {
			delete(s, "additionalProperties")
		}
		props[key.Value] = s
	}
	return map[string]any{"type": "object", "properties": props, "additionalProperties": false}, nil
}

var types = map[string]string{"!!str": "string", "!!int": "integer", "!!float": "number", "!!bool": "boolean", "!!seq": "array", "!!map": "object"}

func property(key, value *yaml.Node, where string) (map[string]any, error) {
	var sentence, extra []string
	for line := range strings.Lines(key.HeadComment) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#"))
		if more, ok := strings.CutPrefix(line, "@schema "); ok {
			extra = append(extra, more)
		} else if line != "" {
			sentence = append(sentence, line)
		}
	}
	description := strings.Join(sentence, " ")
	if len(description) < 10 || !strings.ContainsAny(description[len(description)-1:], ".:)") {
		return nil, fmt.Errorf("%s (line %d): wants a sentence before it, has %q", where, key.Line, description)
	}
	s := map[string]any{}
	if t, ok := types[value.Tag]; ok {
		s["type"] = t
	}
	if err := yaml.Unmarshal([]byte("{"+strings.Join(extra, ", ")+"}"), &s); err != nil {
		return nil, fmt.Errorf("%s (line %d): @schema: %w", where, key.Line, err)
	}
	s["description"] = description
	_, open := s["additionalProperties"]
	switch {
	case s["type"] == nil:
		return nil, fmt.Errorf("%s (line %d): the type of null wants an @schema", where, key.Line)
	case value.Kind == yaml.SequenceNode && s["items"] == nil:
		return nil, fmt.Errorf("%s (line %d): the items of a list want an @schema", where, key.Line)
	case value.Kind == yaml.MappingNode && !open:
		inner, err := object(value, where, nil)
		if err != nil {
			return nil, err
		}
		s["properties"], s["additionalProperties"] = inner["properties"], false
	}
	if value.Kind == yaml.ScalarNode && value.Tag != "!!null" {
		var def any
		if err := value.Decode(&def); err != nil {
			return nil, err
		}
		s["default"] = def
	}
	return s, nil
}
