package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// module is the path under which the workspace's modules lie.
const module = "agentyard.dev/"

// tree is the Go files of a workspace.
type tree struct {
	root  string
	fset  *token.FileSet
	files []*file
}

// file is one Go file; its paths are relative to the root and slash-separated.
type file struct {
	path      string
	dir       string
	test      bool
	generated bool
	lines     int
	imports   []string
	syntax    *ast.File
}

// load parses all Go files below libs, services, bench and deploy. Build tags do not matter: a rule holds on every platform.
func load(root string) (*tree, error) {
	t := &tree{root: root, fset: token.NewFileSet()}
	for _, top := range []string{"libs", "services", "bench", "deploy"} {
		dir := filepath.Join(root, top)
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			continue
		}
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".")):
				return filepath.SkipDir
			case d.IsDir() || !strings.HasSuffix(name, ".go"):
				return nil
			}
			return t.parse(name)
		})
		if err != nil {
			return nil, fmt.Errorf("load %s: %w", top, err)
		}
	}
	return t, nil
}

func (t *tree) parse(name string) error {
	src, err := os.ReadFile(name)
	if os.IsNotExist(err) {
		return nil // somebody's editor was at work
	}
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(t.root, name)
	if err != nil {
		return err
	}
	rel = filepath.ToSlash(rel)
	syntax, err := parser.ParseFile(t.fset, rel, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	f := &file{
		path: rel, dir: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go"),
		generated: ast.IsGenerated(syntax), lines: bytes.Count(src, []byte("\n")), syntax: syntax,
	}
	for _, spec := range syntax.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", rel, err)
		}
		f.imports = append(f.imports, p)
	}
	t.files = append(t.files, f)
	return nil
}

// dirs returns the directories that hold Go files, sorted.
func (t *tree) dirs() []string {
	var dirs []string
	for _, f := range t.files {
		dirs = append(dirs, f.dir)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// at returns where a node stands, "path:line".
func (t *tree) at(n ast.Node) string {
	p := t.fset.Position(n.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// thirdParty reports whether an import path is neither the standard library's nor the workspace's.
func thirdParty(importPath string) bool {
	return !standard(importPath) && !strings.HasPrefix(importPath, module)
}

// standard reports whether an import path is the standard library's: only others begin with a domain.
func standard(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(first, ".")
}

// within reports whether p is prefix or lies below it.
func within(p, prefix string) bool {
	return p == prefix || strings.HasPrefix(p, prefix+"/")
}

// service returns the name of the service that a directory or an import path within the workspace belongs to, or "".
func service(p string) string {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(p, module), "services/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}
