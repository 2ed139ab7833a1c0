package tc

import (
	"bytes"
	"encoding/json"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// jsonNode is a JSON document as the tree that the decoder reads. JSON is almost YAML: a YAML parser refuses tabs and does not join
// surrogates. ok is false when it is not JSON.
func jsonNode(data []byte) (n *yaml.Node, ok bool) {
	if !json.Valid(data) {
		return nil, false
	}
	r := jsonReader{data: data, dec: json.NewDecoder(bytes.NewReader(data))}
	r.dec.UseNumber()
	n, err := r.value()
	return n, err == nil
}

type jsonReader struct {
	data []byte
	dec  *json.Decoder
	line int   // of at, from 0
	at   int64 // up to where lines are counted
}

// here is the line of the token that was just read.
func (r *jsonReader) here() int {
	end := r.dec.InputOffset()
	r.line += bytes.Count(r.data[r.at:end], []byte{'\n'})
	r.at = end
	return r.line + 1
}

func (r *jsonReader) value() (*yaml.Node, error) {
	token, err := r.dec.Token()
	if err != nil {
		return nil, err
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: r.here()}
	switch v := token.(type) {
	case json.Delim:
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
		if v == '[' {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		}
		for r.dec.More() {
			child, err := r.value()
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, child)
		}
		_, err = r.dec.Token() // the closing one
	case string:
		n.Tag, n.Value = "!!str", v
	case json.Number:
		n.Tag, n.Value = "!!float", v.String()
		if _, err := strconv.ParseInt(n.Value, 10, 64); err == nil {
			n.Tag = "!!int"
		}
	case bool:
		n.Tag, n.Value = "!!bool", strconv.FormatBool(v)
	case nil:
		n.Tag, n.Value = "!!null", "null"
	}
	return n, err
}
