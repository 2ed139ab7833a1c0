package charttest

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "write the generated files and the golden manifests")

// Charts are all charts with values.
var Charts = append([]string{"nats", "redis", "agentyard"}, Services...)

// built is the services' binaries, each built when it is first asked.
var built = struct {
	sync.Mutex
	dir   string
	flags map[string][]Flag
}{flags: map[string][]Flag{}}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // Helm tells of each symbolic link
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// flags returns a service's flags, from its binary.
func flags(t *testing.T, service string) []Flag {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if list, ok := built.flags[service]; ok {
		return list
	}
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "charttest-")
		if err != nil {
			t.Fatal(err)
		}
		built.dir = dir
	}
	binary := filepath.Join(built.dir, service)
	if err := Build(t.Context(), binary, service); err != nil {
		t.Fatal(err)
	}
	list, err := Flags(t.Context(), binary)
	if err != nil {
		t.Fatal(err)
	}
	built.flags[service] = list
	return list
}

// generated compares a generated file with what it should be, or writes it.
func generated(t *testing.T, file string, want []byte) {
	t.Helper()
	have, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err == nil && bytes.Equal(have, want) {
		return
	}
	if !*update {
		t.Errorf("%s is not up to date: run go test ./deploy/charttest -update and look at the difference\n%s", file, difference(have, want))
		return
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, want, 0o644); err != nil {
		t.Fatal(err)
	}
}

// difference shows where two texts begin to differ.
func difference(have, want []byte) string {
	a, b := strings.Split(string(have), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			at := func(lines []string) string {
				return strings.Join(lines[min(i, len(lines)):min(i+5, len(lines))], "\n  ")
			}
			return fmt.Sprintf("line %d\nhave\n  %s\nwant\n  %s", i+1, at(a), at(b))
		}
	}
	return ""
}

// Each flag of each service is a value, or the chart sets it.
func TestConfigIsTheServicesFlags(t *testing.T) {
	for _, s := range Services {
		t.Run(s, func(t *testing.T) { configIsFlags(t, s) })
	}
}

func configIsFlags(t *testing.T, s string) {
	list := flags(t, s)
	file := filepath.Join(Helm(s), "values.yaml")
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	above, _, ok := bytes.Cut(have, []byte("# Flags of the service,"))
	if !ok {
		t.Fatalf("%s has no part for the service's flags", file)
	}
	generated(t, file, append(bytes.Clone(above), ConfigValues(s, list)...))
}

func TestSchemas(t *testing.T) {
	for _, c := range Charts {
		schema, err := Schema(Helm(c))
		if err != nil {
			t.Error(err)
			continue
		}
		generated(t, filepath.Join(Helm(c), "values.schema.json"), schema)
	}
}

// What a release's charts have in common is written in each of them: Helm shares values of one release only.
func TestGlobalValuesAreTheSame(t *testing.T) {
	global := func(chart string) string {
		data, err := os.ReadFile(filepath.Join(Helm(chart), "values.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var part []string
		for i, line := range strings.Split(string(data), "\n") {
			if i > 1 && !strings.HasPrefix(line, " ") {
				break
			}
			part = append(part, line)
		}
		return strings.Join(part, "\n")
	}
	want := global("gateway")
	if strings.Count(want, "\n") < 50 {
		t.Fatalf("the global values are only\n%s", want)
	}
	for _, c := range Charts {
		if got := global(c); got != want {
			t.Errorf("%s has other global values than gateway: %s", c, difference([]byte(got), []byte(want)))
		}
	}
}
