package tilt_test

import (
	"fmt"
	"go/build"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.starlark.net/starlark"

	"agentyard.dev/deploy/charttest"
	"agentyard.dev/deploy/charttest/tilt"
)

const root = "../../.."

// yard is the project's Tiltfile and what it deploys.
type yard struct {
	*tilt.File
	objects []charttest.Object
}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // Helm tells of each symbolic link
	os.Exit(m.Run())
}

func evaluate(t *testing.T, values map[string]starlark.Value) *yard {
	t.Helper()
	y := &yard{}
	f, err := tilt.Eval(root, values, func(c tilt.Call) (string, error) {
		var files []string
		for _, v := range c.List("values") {
			files = append(files, filepath.Join(root, v))
		}
		values, err := charttest.Values(nil, files...)
		if err != nil {
			return "", err
		}
		chart := filepath.Join(root, c.Text("pathToChartDir"))
		objects, _, err := charttest.Render(chart, charttest.Release{Name: c.Text("name"), Namespace: c.Text("namespace")}, values)
		if err != nil {
			return "", err
		}
		for _, o := range objects { // Tilt leaves the pods of helm test out, and runs other hooks as what they are
			if o.Hook() != "test" {
				y.objects = append(y.objects, o)
			}
		}
		return string(charttest.Manifest(y.objects)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	y.File = f
	return y
}

func (y *yard) calls(function string) []tilt.Call {
	return slices.DeleteFunc(slices.Clone(y.Calls), func(c tilt.Call) bool { return c.Function != function })
}

func TestTiltfile(t *testing.T) {
	y := evaluate(t, nil)
	workloads, images := map[string]charttest.Object{}, map[string]bool{}
	for _, o := range y.objects {
		switch o.Kind() {
		case "Deployment", "StatefulSet", "DaemonSet", "Job":
			workloads[o.Name()] = o
			for line := range strings.Lines(o.Text) {
				if image, ok := strings.CutPrefix(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "- ")), "image: "); ok {
					images[image[:strings.LastIndex(image, ":")]] = true
				}
			}
		}
	}

	local, refs := map[string]tilt.Call{}, map[string]bool{}
	for _, c := range y.calls("local_resource") {
		local[c.Text("name")] = c
		cmd := c.List("cmd")
		pkg := cmd[len(cmd)-1]
		p, err := build.ImportDir(filepath.Join(root, pkg), 0)
		if err != nil || p.Name != "main" {
			t.Errorf("%s: %s is not a program: %v", c.At, pkg, err)
		}
		for _, dep := range c.List("deps") {
			if _, err := os.Stat(filepath.Join(root, dep)); err != nil {
				t.Errorf("%s: watches %s: %v", c.At, dep, err)
			}
		}
	}
	for _, c := range y.calls("docker_build") {
		ref := c.Text("ref")
		refs[ref] = true
		name := path.Base(ref)
		compile, ok := local["compile-"+name]
		if !ok {
			t.Fatalf("%s: nothing compiles %s", c.At, name)
		}
		cmd := compile.List("cmd")
		out := cmd[slices.Index(cmd, "-o")+1]
		if path.Dir(out) != c.Text("context") {
			t.Errorf("%s: the binary is %s, the context %s", c.At, out, c.Text("context"))
		}
		if _, err := os.Stat(filepath.Join(root, c.Text("dockerfile"))); err != nil {
			t.Errorf("%s: %v", c.At, err)
		}
		// Tilt: sync comes before run, below the context, to an absolute path.
		for i, step := range c.Calls("live_update") {
			switch {
			case step.Function == "sync" && i == 0:
				if step.Text("local_path") != out || step.Text("remote_path") != "/app/"+name {
					t.Errorf("%s: syncs %s to %s", c.At, step.Text("local_path"), step.Text("remote_path"))
				}
			case step.Function == "run" && i == 1:
			default:
				t.Errorf("%s: step %d is %s", c.At, i+1, step.Function)
			}
		}
	}
	for image := range images {
		if strings.HasPrefix(image, "localhost/") && !refs[image] {
			t.Errorf("nothing builds %s", image)
		}
	}
	for ref := range refs {
		if !images[ref] && path.Base(ref) != "runner" { // which the sessions service names
			t.Errorf("nothing runs %s", ref)
		}
	}

	configured := map[string]bool{}
	for _, c := range y.calls("k8s_resource") {
		name := c.Text("workload")
		configured[name] = true
		o, ok := workloads[name]
		if !ok {
			t.Errorf("%s: there is no workload %s", c.At, name)
			continue
		}
		for _, pf := range c.List("port_forwards") {
			_, port, _ := strings.Cut(pf, ":")
			if !strings.Contains(o.Text, "containerPort: "+port) {
				t.Errorf("%s: %s has no port %s", c.At, name, port)
			}
		}
	}
	for _, c := range y.calls("k8s_resource") {
		for _, dep := range c.List("resource_deps") {
			if _, ok := local[dep]; !ok && !configured[dep] {
				t.Errorf("%s: waits for %s, which nobody is", c.At, dep)
			}
		}
	}
	for name := range workloads {
		if !configured[name] {
			t.Errorf("%s is deployed and has no line in the Tiltfile", name)
		}
	}
}

// One line a service.
func TestTiltfileIsShort(t *testing.T) {
	src, err := os.ReadFile(filepath.Join(root, "Tiltfile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range charttest.Services {
		n := 0
		for line := range strings.Lines(string(src)) {
			if strings.HasPrefix(line, fmt.Sprintf("service('%s'", service)) && strings.HasSuffix(strings.TrimSpace(line), ")") {
				n++
			}
		}
		if want := 1; n != want && service != "tcagent" { // off in the chart's values
			t.Errorf("%s has %d lines", service, n)
		}
	}
}

func TestArguments(t *testing.T) {
	y := evaluate(t, map[string]starlark.Value{"context": starlark.String("my-cluster")})
	if c := y.calls("allow_k8s_contexts"); len(c) != 1 || c[0].List("contexts")[0] != "my-cluster" {
		t.Errorf("got %v", c)
	}
	if _, err := tilt.Eval(root, map[string]starlark.Value{"contxt": starlark.String("x")}, nil); err == nil || !strings.Contains(err.Error(), "unknown flag: --contxt") {
		t.Errorf("an unknown argument: got %v", err)
	}
}

// What Tilt refuses, the evaluation refuses.
func TestMistakesAreFound(t *testing.T) {
	for name, c := range map[string]struct{ src, want string }{
		"an unknown function":        {"k8s_yml('x')", "undefined: k8s_yml"},
		"an unknown argument":        {"docker_build('a', '.', live_updates = [])", "unexpected keyword argument \"live_updates\""},
		"a missing argument":         {"docker_build('a')", "missing argument for context"},
		"a value of the wrong type":  {"k8s_resource('a', port_forwards = {'a': 1})", "port_forwards"},
		"a list of the wrong type":   {"local_resource('a', cmd = ['go', 1])", "not a string"},
		"an unknown member":          {"config.define_int('a')", "no .define_int"},
		"an extension":               {"load('ext://restart_process', 'x')", "network"},
		"a file that is not there":   {"load('./none.star', 'x')", "no such file"},
		"a name that nobody exports": {"load('./ok.star', 'y')", "not found"},
		"a failure":                  {"fail('no cluster')", "no cluster"},
		"a step that is none":        {"docker_build('a', '.', live_update = 'sync')", "live_update"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{"Tiltfile": c.src + "\n", "ok.star": "x = 1\n"} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := tilt.Eval(dir, nil, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
