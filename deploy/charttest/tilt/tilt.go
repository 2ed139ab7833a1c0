// Package tilt evaluates Tiltfiles as far as their language and Tilt's documented functions go (docs.tilt.dev/api.html): what a Tiltfile
// asks for is recorded, nothing is built or deployed. A function that Tilt does not have, an argument that it does not take or a value of
// the wrong type is an error, as it is to Tilt.
package tilt

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"
	"go.starlark.net/syntax"
)

// Call is one call of a function of Tilt's.
type Call struct {
	Function string
	Args     map[string]starlark.Value // those that were given
	At       string                    // "file:line"
}

// Text returns an argument that is a text; "" when it was not given.
func (c Call) Text(name string) string {
	s, _ := starlark.AsString(c.Args[name])
	return s
}

// List returns an argument that is a text or a list of texts.
func (c Call) List(name string) []string {
	if s, ok := starlark.AsString(c.Args[name]); ok {
		return []string{s}
	}
	var all []string
	if it, ok := c.Args[name].(starlark.Iterable); ok {
		for v := range starlark.Elements(it) {
			if s, ok := starlark.AsString(v); ok {
				all = append(all, s)
			} else {
				all = append(all, v.String())
			}
		}
	}
	return all
}

// Calls returns the calls that an argument holds, such as live_update's steps.
func (c Call) Calls(name string) []Call {
	var all []Call
	if it, ok := c.Args[name].(starlark.Iterable); ok {
		for v := range starlark.Elements(it) {
			if step, ok := v.(*result); ok {
				all = append(all, step.call)
			}
		}
	}
	return all
}

// File is an evaluated Tiltfile.
type File struct {
	Calls []Call // of functions that build or deploy, in order; settings too

	dir    string
	config map[string]starlark.Value // what config.parse returns
	helm   func(Call) (string, error)
	loaded map[string]starlark.StringDict
}

// Eval evaluates the Tiltfile in dir. The values are those of the command line (tilt up -- --name value); render answers helm().
func Eval(dir string, values map[string]starlark.Value, render func(Call) (string, error)) (*File, error) {
	f := &File{dir: dir, config: values, helm: render, loaded: map[string]starlark.StringDict{}}
	if _, err := f.exec(filepath.Join(dir, "Tiltfile")); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) exec(file string) (starlark.StringDict, error) {
	if globals, ok := f.loaded[file]; ok {
		return globals, nil
	}
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	thread := &starlark.Thread{Name: filepath.Base(file), Load: func(_ *starlark.Thread, module string) (starlark.StringDict, error) {
		if strings.Contains(module, "://") {
			return nil, fmt.Errorf("load(%q): an extension comes from the network", module)
		}
		return f.exec(filepath.Join(filepath.Dir(file), module))
	}}
	// Tilt's dialect: for and if at the top level, names that are set again, while not.
	dialect := &syntax.FileOptions{Set: true, TopLevelControl: true, GlobalReassign: true, Recursion: true}
	name, err := filepath.Rel(f.dir, file)
	if err != nil {
		return nil, err
	}
	globals, err := starlark.ExecFileOptions(dialect, thread, name, src, f.builtins())
	if err != nil {
		if evalErr, ok := err.(*starlark.EvalError); ok { //nolint:errorlint // the type that Starlark documents
			return nil, fmt.Errorf("%s", evalErr.Backtrace())
		}
		return nil, err
	}
	f.loaded[file] = globals
	return globals, nil
}

// result is what a function of Tilt's returns when it is to be given to another: a live update step, a link, a probe.
type result struct{ call Call }

func (r *result) String() string        { return r.call.Function + "(…)" }
func (r *result) Type() string          { return r.call.Function }
func (r *result) Freeze()               {}
func (r *result) Truth() starlark.Bool  { return true }
func (r *result) Hash() (uint32, error) { return 0, fmt.Errorf("%s has no hash", r.Type()) }

// blob is a text that is content and not a path.
type blob string

func (b blob) String() string        { return string(b) }
func (b blob) Type() string          { return "blob" }
func (b blob) Freeze()               {}
func (b blob) Truth() starlark.Bool  { return b != "" }
func (b blob) Hash() (uint32, error) { return starlark.String(b).Hash() }

// builtin returns one of Tilt's functions; params are its documented parameters in order, an optional one marked with "?", and
// answer computes what it returns.
func (f *File) builtin(name string, record bool, params []param, answer func(Call) (starlark.Value, error)) *starlark.Builtin {
	return starlark.NewBuiltin(name, func(thread *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		values := make([]starlark.Value, len(params))
		var unpack []any
		for i, p := range params {
			n := p.name
			if p.optional {
				n += "?"
			}
			unpack = append(unpack, n, &values[i])
		}
		if err := starlark.UnpackArgs(b.Name(), args, kwargs, unpack...); err != nil {
			return nil, err
		}
		c := Call{Function: name, Args: map[string]starlark.Value{}, At: thread.CallFrame(1).Pos.String()}
		for i, p := range params {
			if values[i] == nil || values[i] == starlark.None {
				continue
			}
			if err := p.check(values[i]); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", name, p.name, err)
			}
			c.Args[p.name] = values[i]
		}
		if record {
			f.Calls = append(f.Calls, c)
		}
		if answer == nil {
			return starlark.None, nil
		}
		return answer(c)
	})
}

// param is a documented parameter.
type param struct {
	name     string
	optional bool
	kinds    []string // what it may be
}

func (p param) check(v starlark.Value) error {
	if len(p.kinds) == 0 {
		return nil
	}
	if slices.Contains(p.kinds, "texts") {
		if it, ok := v.(starlark.Iterable); ok && v.Type() != "dict" {
			for e := range starlark.Elements(it) {
				if e.Type() != "string" && !slices.Contains(p.kinds, e.Type()) {
					return fmt.Errorf("an element is a %s, not a string", e.Type())
				}
			}
			return nil
		}
	}
	if !slices.Contains(p.kinds, v.Type()) {
		return fmt.Errorf("got a %s, want %s", v.Type(), strings.Join(p.kinds, " or "))
	}
	return nil
}

// signature reads "name:kind|kind? …": a parameter with "?" is optional.
func signature(s string) []param {
	var params []param
	for _, field := range strings.Fields(s) {
		p := param{}
		field, p.optional = strings.CutSuffix(field, "?")
		var kinds string
		p.name, kinds, _ = strings.Cut(field, ":")
		if kinds != "" {
			p.kinds = strings.Split(kinds, "|")
		}
		params = append(params, p)
	}
	return params
}

// module returns a name with functions below it.
func module(name string, members starlark.StringDict) starlark.Value {
	return &starlarkstruct.Module{Name: name, Members: maps.Clone(members)}
}
