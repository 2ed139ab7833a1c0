package charttest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// definitions returns the schemas of the custom resources by kind.
func definitions(t *testing.T) map[string]map[string]any {
	t.Helper()
	found := map[string]map[string]any{}
	for _, o := range declared(t) {
		if o.Kind() != "CustomResourceDefinition" {
			continue
		}
		versions, _ := dig(o.Tree, "spec", "versions").([]any)
		found[text(dig(o.Tree, "spec", "names", "kind"))] = asMap(dig(versions[0], "schema", "openAPIV3Schema"))
	}
	if len(found) != 2 {
		t.Fatalf("definitions: %v", found)
	}
	return found
}

// declared renders the sessions chart with declarations.
func declared(t *testing.T) []Object {
	t.Helper()
	return arrangement{name: "declared", chart: "sessions", more: `
global: {yard: agentyard}
declarations: {enabled: true, namespaces: {team-a: default/ua234567a234567ab}}
`}.objects(t)
}

// structs are the struct types of libs/api: their fields by the name that custom resources have for them, with the field's type.
func structs(t *testing.T) map[string]map[string]ast.Expr {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(Root, "libs", "api", "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("libs/api: %v", err)
	}
	found := map[string]map[string]ast.Expr{}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			s, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			fields := map[string]ast.Expr{}
			for _, f := range s.Fields.List {
				if f.Tag == nil {
					continue
				}
				name, _, _ := strings.Cut(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json"), ",")
				if name != "" && name != "-" {
					fields[camel(name)] = f.Type
				}
			}
			found[spec.Name.Name] = fields
			return true
		})
	}
	return found
}

func camel(name string) string {
	words := strings.Split(name, "_")
	for i, w := range words[1:] {
		words[i+1] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.Join(words, "")
}

// What can be said by the API can be declared, and nothing else: a field that is added to one is missing from the other here.
func TestDefinitionsAreTheAPI(t *testing.T) {
	api := structs(t)
	left := map[string][]string{ // what an object says otherwise, or may not
		"CreateSessionRequest": {"wait", "idempotencyKey"},
		"Profile":              {"name", "rev"},
	}
	var compare func(at, of string, schema map[string]any)
	compare = func(at, of string, schema map[string]any) {
		fields, ok := api[of]
		if !ok {
			t.Fatalf("libs/api has no %s", of)
		}
		have := asMap(schema["properties"])
		for name, kind := range fields {
			if slices.Contains(left[of], name) {
				continue
			}
			property, ok := have[name].(map[string]any)
			if !ok {
				t.Errorf("%s: the definition has no %s", at, name)
				continue
			}
			for {
				if p, ok := kind.(*ast.StarExpr); ok {
					kind = p.X
				} else if l, ok := kind.(*ast.ArrayType); ok {
					kind, property = l.Elt, asMap(property["items"])
				} else {
					break
				}
			}
			if id, ok := kind.(*ast.Ident); ok && api[id.Name] != nil {
				compare(at+"."+name, id.Name, property)
			}
		}
		for name := range have {
			if _, ok := fields[name]; !ok {
				t.Errorf("%s: libs/api has no %s", at, name)
			}
		}
	}
	defs := definitions(t)
	spec := func(kind string) map[string]any { return asMap(dig(defs[kind], "properties", "spec")) }
	compare("Session", "CreateSessionRequest", spec("Session"))
	compare("SessionProfile", "Profile", spec("SessionProfile"))
}

// Without namespaces the service gets no rights, and without declarations there are no definitions either.
func TestDeclarationsAreSwitched(t *testing.T) {
	kinds := func(more string) (found []string) {
		for _, o := range (arrangement{name: "switched", chart: "sessions", more: "global: {yard: agentyard}\n" + more}).objects(t) {
			if o.Kind() == "CustomResourceDefinition" || strings.Contains(o.File, "declaration") {
				found = append(found, o.Kind())
			}
		}
		return found
	}
	for more, want := range map[string][]string{
		"": nil,
		"declarations: {namespaces: {a: default/ua234567a234567ab}}":                                    nil,
		"declarations: {enabled: true}":                                                                 {"CustomResourceDefinition", "CustomResourceDefinition"},
		"declarations: {enabled: true, definitions: false, namespaces: {a: default/ua234567a234567ab}}": {"Role", "RoleBinding"},
	} {
		if got := kinds(more); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", more, got, want)
		}
	}
	for _, wrong := range []string{"default", "default/anna", "/ua234567a234567ab", "a/b/ua234567a234567ab"} {
		values, err := Values(parse(t, "declarations: {enabled: true, namespaces: {a: "+wrong+"}}"))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Render(Helm("sessions"), Release{Name: "x", Namespace: "yard"}, values); err == nil {
			t.Errorf("the namespace was given to %q", wrong)
		}
	}
}
