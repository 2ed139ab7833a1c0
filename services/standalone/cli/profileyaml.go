package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"

	"agentyard.dev/libs/api"
)

// maxProfileFile bounds what is parsed: thousands of profiles fit.
const maxProfileFile = 1 << 20

// parseProfiles reads YAML documents (JSON is YAML), each a profile with the field names
// of the HTTP API. It refuses unknown fields, so that a typing error is not silently a default.
func parseProfiles(data []byte) ([]api.Profile, error) {
	if len(data) > maxProfileFile {
		return nil, fmt.Errorf("longer than %d bytes", maxProfileFile)
	}
	var profiles []api.Profile
	names := map[string]bool{}
	docs := yaml.NewDecoder(bytes.NewReader(data))
	for n := 1; ; n++ {
		var doc map[string]any
		err := docs.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		if doc == nil {
			continue // between two separators
		}
		p, err := profileOf(doc)
		switch {
		case err != nil:
			return nil, fmt.Errorf("document %d: %w", n, err)
		case !api.ValidName(p.Name):
			return nil, fmt.Errorf("document %d: name: want 1 to 40 of a-z, 0-9 and -, beginning and ending with a letter or digit", n)
		case names[p.Name]:
			return nil, fmt.Errorf("document %d: profile %s stands there twice", n, p.Name)
		}
		names[p.Name] = true
		profiles = append(profiles, p)
	}
	if len(profiles) == 0 {
		return nil, errors.New("it holds no profile")
	}
	return profiles, nil
}

// profileOf goes through JSON, whose field names and durations are the API's.
func profileOf(doc map[string]any) (api.Profile, error) {
	var p api.Profile
	data, err := json.Marshal(doc)
	if err != nil {
		return p, fmt.Errorf("it has something that JSON has not: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return p, plainly(err)
	}
	p.Rev = 0 // the server's
	return p, nil
}

// plainly says what the JSON decoder says in terms of what a person wrote.
func plainly(err error) error {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if wrong.Type.Kind() == reflect.String { // YAML takes 5, yes and 2026-01-01 for other things
		return fmt.Errorf("%s: want text; put a %s into quotes", wrong.Field, wrong.Value)
	}
	return fmt.Errorf("%s: %s is not what it takes", wrong.Field, wrong.Value)
}

// formatProfile writes p in the form that parseProfiles reads.
func formatProfile(p api.Profile) ([]byte, error) {
	p.Rev = 0
	data, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	// JSON is YAML: decoding into a node keeps the fields' order.
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	plain(&doc)
	if len(doc.Content) == 1 {
		drop(doc.Content[0], "rev")
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, err
	}
	return out.Bytes(), enc.Close()
}

// plain clears the JSON style of a node and all below it.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plain(c)
	}
}

// drop removes a key of a mapping.
func drop(n *yaml.Node, key string) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content = append(n.Content[:i], n.Content[i+2:]...)
			return
		}
	}
}
