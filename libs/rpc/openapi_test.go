package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"agentyard.dev/libs/api"
)

var update = flag.Bool("update", false, "write testdata/openapi.json")

var extraPaths = map[string]any{
	"/health": map[string]any{"get": map[string]any{
		"operationId": "health", "security": []any{}, "responses": map[string]any{"200": map[string]any{"description": "alive"}},
	}},
	"/api/v1/sessions/{id}/events": map[string]any{"get": map[string]any{
		"operationId": "sessions.events",
		"parameters":  []any{map[string]any{"name": "id", "in": "path", "required": true, "schema": map[string]any{"type": "string"}}},
		"responses": map[string]any{"200": map[string]any{"description": "events", "content": map[string]any{
			"text/event-stream": map[string]any{"schema": map[string]any{"$ref": "#/components/schemas/Event"}},
		}}},
	}},
}

func TestOpenAPI(t *testing.T) {
	doc, err := OpenAPI("agentyard", "v1", api.Operations(), extraPaths)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("is the same each time", func(t *testing.T) {
		for range 5 {
			again, err := OpenAPI("agentyard", "v1", api.Operations(), extraPaths)
			if err != nil || !bytes.Equal(doc, again) {
				t.Fatalf("differs: %v", err)
			}
		}
	})
	t.Run("is the golden document", func(t *testing.T) {
		golden := filepath.Join("testdata", "openapi.json")
		if *update {
			if err := os.WriteFile(golden, doc, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(doc, want) {
			t.Fatal("testdata/openapi.json is stale: look at the change after go test ./rpc -run TestOpenAPI -update")
		}
	})
	loaded, err := openapi3.NewLoader().LoadFromData(doc)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("is valid OpenAPI 3.1", func(t *testing.T) {
		if err := loaded.Validate(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("has each operation in full", func(t *testing.T) {
		for _, op := range api.Operations() {
			info := op.Info()
			method, path, _ := strings.Cut(info.Route, " ")
			item := loaded.Paths.Value(path)
			if item == nil || item.GetOperation(method) == nil {
				t.Errorf("no %s", info.Route)
				continue
			}
			got := item.GetOperation(method)
			if got.OperationID != info.Name() || got.Summary != info.Summary || got.Responses.Status(info.Status) == nil || got.Responses.Status(500) == nil {
				t.Errorf("%s is incomplete", info.Name())
			}
		}
	})
	t.Run("describes what the types really encode to", func(t *testing.T) {
		for schema, v := range map[string]any{
			"Session": api.Session{State: api.StateRunning}, "Profile": api.Profile{}, "Event": api.Event{Type: api.EventGap, Data: []byte("x")},
			"SessionPage": api.Page[api.Session]{Items: []api.Session{{State: api.StateFailed}}}, "Problem": problem{Code: api.CodeInvalid, Errors: []api.FieldError{{}}},
			"CreateSessionRequest": map[string]any{"ttl": "90s", "agent": map[string]any{"kind": "demo"}}, "CreateKeyResponse": api.CreateKeyResponse{},
		} {
			data, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			var decoded any
			if err := json.Unmarshal(data, &decoded); err != nil {
				t.Fatal(err)
			}
			ref := loaded.Components.Schemas[schema]
			if ref == nil {
				t.Errorf("no schema %s", schema)
				continue
			}
			if err := ref.Value.VisitJSON(decoded, openapi3.EnableJSONSchema2020()); err != nil {
				t.Errorf("%s: %v", schema, err)
			}
		}
		bad := map[string]any{"ttl": "90s", "titel": "x"}
		if loaded.Components.Schemas["CreateSessionRequest"].Value.VisitJSON(bad, openapi3.EnableJSONSchema2020()) == nil {
			t.Error("an unknown field fits the schema of a request")
		}
	})
}

func TestOpenAPIRefuses(t *testing.T) {
	type Session struct {
		Other string `json:"other"`
	}
	one := api.Op[api.None, api.Session]{Service: "a", Verb: "b", Route: "GET /x"}
	for name, second := range map[string]api.AnyOp{
		"two operations of one name":  api.Op[api.None, api.None]{Service: "a", Verb: "b", Route: "GET /y"},
		"two operations of one route": api.Op[api.None, api.None]{Service: "a", Verb: "c", Route: "GET /x"},
		"two types of one name":       api.Op[api.None, Session]{Service: "a", Verb: "c", Route: "GET /y"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := OpenAPI("t", "v", []api.AnyOp{one, second}, nil); err == nil {
				t.Fatal("no error")
			}
		})
	}
	if _, err := OpenAPI("t", "v", []api.AnyOp{one}, map[string]any{"/x": map[string]any{"get": map[string]any{}}}); err == nil {
		t.Error("an extra path took an operation's place")
	}
}

// TestEnums reads libs/api, so that a constant that is added there is not forgotten here.
func TestEnums(t *testing.T) {
	files, err := filepath.Glob("../api/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources of libs/api: %v", err)
	}
	found := map[string][]string{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			typ, isIdent := spec.Type.(*ast.Ident)
			value, isLiteral := spec.Values[0].(*ast.BasicLit)
			if isIdent && isLiteral && value.Kind == token.STRING {
				word, _ := strconv.Unquote(value.Value)
				found[typ.Name] = append(found[typ.Name], word)
			}
			return true
		})
	}
	all := map[string][]string{reflect.TypeFor[api.EventType]().Name(): openEnums[reflect.TypeFor[api.EventType]()]}
	for typ, values := range enums {
		all[typ.Name()] = values
	}
	for name, values := range all {
		have, want := slices.Sorted(slices.Values(values)), slices.Sorted(slices.Values(found[name]))
		if !slices.Equal(have, want) {
			t.Errorf("%s: the document lists %q, libs/api declares %q", name, have, want)
		}
	}
}
