package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// homes says where each third-party module may be imported: "*" is everywhere, and a directory includes what lies below it. A
// new dependency gets a line here and one in docs/adr.
var homes = map[string][]string{
	// The bus. bench measures it raw, beside ours; a test of deploy/hooks runs the server as the chart configures it.
	"github.com/nats-io":        {"libs/bus", "libs/rpc", "bench", "deploy/hooks"},
	"github.com/google/btree":   {"libs/bus"},
	"github.com/go-kit/kit":     {"libs/rpc"},
	"github.com/sony/gobreaker": {"libs/rpc"},

	"github.com/golang-jwt/jwt":       {"libs/token"},
	"github.com/hashicorp/golang-lru": {"libs/token", "libs/limit"},
	"github.com/redis/go-redis":       {"libs/limit", "bench/peers"},

	// What encoding/json is from Go 1.27 on.
	"github.com/go-json-experiment/json": {"libs/bus", "libs/rpc", "services/tcagent", "services/gateway"},

	"github.com/prometheus/client_golang/prometheus":            {"*"},
	"github.com/prometheus/client_golang/prometheus/promhttp":   {"libs/daemon"},
	"github.com/prometheus/client_golang/prometheus/collectors": {"libs/daemon"},
	// OpenTelemetry's API is everywhere, its SDK in one place.
	"go.opentelemetry.io/otel":           {"*"},
	"go.opentelemetry.io/otel/sdk":       {"libs/daemon"},
	"go.opentelemetry.io/otel/exporters": {"libs/daemon"},

	// Terminals: a pseudo-terminal, and the screen that a program draws on it.
	"github.com/creack/pty":    {"services/sessions/runner/terminal"},
	"github.com/gdamore/tcell": {"services/sessions/runner/terminal"},

	"github.com/coder/websocket": {"services/gateway", "services/standalone/client", "services/standalone/yardtest", "bench"},
	"github.com/spf13/cobra":     {"services/standalone/cli", "deploy/cluster/kubeall"},
	"github.com/spf13/pflag":     {"services/standalone/cli"},
	"go.yaml.in/yaml":            {"services/standalone/cli", "libs/tc", "deploy/charttest"},
	"golang.org/x/term":          {"services/standalone/cli"},

	// Other people's task queues, beside which ours is measured: a module of its own, outside the workspace.
	"github.com/riverqueue/river": {"bench/peers"},
	"github.com/jackc/pgx":        {"bench/peers"},
	"github.com/hibiken/asynq":    {"bench/peers"},

	// Tests only.
	"github.com/getkin/kin-openapi":   {"libs/rpc"},
	"github.com/hashicorp/cronexpr":   {"services/scheduler/cron"},
	"github.com/rogpeppe/go-internal": {"services/standalone/scenario"},

	// What exporters of spans send, for who takes them.
	"go.opentelemetry.io/proto/otlp": {"services/standalone/yardtest/spantest"},
	"google.golang.org/protobuf":     {"services/standalone/yardtest/spantest"},

	"k8s.io": {"services/sessions/kube", "bench/cluster", "services/tcagent/controller", "deploy/cluster/kubeall", "deploy/e2e"},
	// What the node agent may link of Kubernetes: the messages of the container runtime's socket.
	"k8s.io/cri-api":         {"services/tcagent/cri"},
	"google.golang.org/grpc": {"services/tcagent/cri"},

	"sigs.k8s.io":                    {"services/sessions/kube", "services/tcagent/controller", "deploy/charttest"},
	"github.com/vishvananda/netlink": {"libs/tc/kernel"},
	"github.com/vishvananda/netns":   {"libs/tc/kernel"},
	"github.com/cilium/ebpf":         {"libs/tc/kernel"},

	// Deployment's tests: a real Kubernetes, images without a daemon, Helm's own engine, the language of Tiltfiles.
	"go.etcd.io/etcd":                        {"deploy/cluster/kubeall"},
	"github.com/google/go-containerregistry": {"deploy/image"},
	"helm.sh/helm":                           {"deploy/charttest", "deploy/e2e"},
	"go.starlark.net":                        {"deploy/charttest"},
	// A collector, whose configuration we write: a module of its own, outside the workspace.
	"go.opentelemetry.io/collector":                             {"deploy/collector"},
	"github.com/open-telemetry/opentelemetry-collector-contrib": {"deploy/collector"},

	// The standard library's own extension.
	"golang.org/x": {"*"},
}

// mains says which command a service's process is, where it is not cmd/<service>.
var mains = map[string]string{"standalone": "agentyard"}

// vague are names that say nothing about a package; what is in one of these belongs to somebody.
var vague = []string{"util", "utils", "common", "shared", "helper", "helpers", "types", "models"}

// maxLines is when a hand-written file is more than one noun.
const maxLines = 500

// rule is one rule: it returns its violations, each "where: what, and what to do".
type rule struct {
	name  string
	check func(*tree) []string
}

var rules = []rule{
	{"libs/api imports the standard library only", apiIsPlain},
	{"libs never import services", libsKnowNoServices},
	{"services never import each other", servicesAreApart},
	{"each third-party package has one home", thirdPartyAtHome},
	{"no package has a vague name", namesSaySomething},
	{"no hand-written file is over 500 lines", filesAreShort},
	{"every package has a doc comment", packagesAreDocumented},
	{"tests do not sleep", testsDoNotSleep},
	{"skipped tests say why", skipsSayWhy},
	{"every service is a process", servicesHaveMains},
}

func apiIsPlain(t *tree) []string {
	return t.imports(func(f *file, p string) string {
		// A test outside the package (api_test) may import the package itself.
		if !within(f.dir, "libs/api") || standard(p) || within(p, module+"libs/api") {
			return ""
		}
		return "is not the standard library; the contract must cost its users nothing"
	})
}

func libsKnowNoServices(t *tree) []string {
	return t.imports(func(f *file, p string) string {
		if !within(f.dir, "libs") || service(p) == "" || !strings.HasPrefix(p, module) {
			return ""
		}
		return "is a service's; a library knows nobody who uses it"
	})
}

func servicesAreApart(t *tree) []string {
	return t.imports(func(f *file, p string) string {
		from := service(f.dir)
		if from == "" || from == "standalone" || !strings.HasPrefix(p, module) || service(p) == "" || service(p) == from {
			return ""
		}
		return "is another service's; ask it an operation (libs/api)"
	})
}

func thirdPartyAtHome(t *tree) []string {
	return t.imports(func(f *file, p string) string {
		if !thirdParty(p) {
			return ""
		}
		prefix, dirs := home(p)
		if prefix == "" {
			return "has no home: add it to homes in libs/archtest and a line to docs/adr"
		}
		if slices.ContainsFunc(dirs, func(dir string) bool { return dir == "*" || within(f.dir, dir) }) {
			return ""
		}
		return "lives in " + strings.Join(dirs, ", ")
	})
}

// home returns the longest prefix of p that has homes, and these.
func home(p string) (prefix string, dirs []string) {
	for candidate, at := range homes {
		if within(p, candidate) && len(candidate) > len(prefix) {
			prefix, dirs = candidate, at
		}
	}
	return prefix, dirs
}

// imports collects what complain says about each import.
func (t *tree) imports(complain func(f *file, importPath string) string) []string {
	var found []string
	for _, f := range t.files {
		for i, p := range f.imports {
			if text := complain(f, p); text != "" {
				found = append(found, fmt.Sprintf("%s: %s %s", t.at(f.syntax.Imports[i]), p, text))
			}
		}
	}
	return found
}

func namesSaySomething(t *tree) []string {
	var found []string
	for _, dir := range t.dirs() {
		if name := path.Base(dir); slices.Contains(vague, name) {
			found = append(found, fmt.Sprintf("%s: %q says nothing; name what the package is about", dir, name))
		}
	}
	for _, f := range t.files {
		name := strings.TrimSuffix(f.syntax.Name.Name, "_test")
		if slices.Contains(vague, name) && name != path.Base(f.dir) {
			found = append(found, fmt.Sprintf("%s: %q says nothing; name what the package is about", f.path, name))
		}
	}
	return found
}

func filesAreShort(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if f.lines > maxLines && !f.generated {
			found = append(found, fmt.Sprintf("%s: %d lines; split it by noun or by phase (at most %d)", f.path, f.lines, maxLines))
		}
	}
	return found
}

func packagesAreDocumented(t *tree) []string {
	documented, seen := map[string]bool{}, map[string]bool{}
	for _, f := range t.files {
		if f.test {
			continue
		}
		seen[f.dir] = true
		if f.syntax.Doc != nil && strings.TrimSpace(f.syntax.Doc.Text()) != "" {
			documented[f.dir] = true
		}
	}
	var found []string
	for _, dir := range t.dirs() {
		if seen[dir] && !documented[dir] {
			found = append(found, dir+": no package comment; say what it is for and what it guarantees")
		}
	}
	return found
}

func testsDoNotSleep(t *tree) []string {
	return t.calls(func(f *file, _ *ast.CallExpr, fun *ast.SelectorExpr) string {
		if pkg, ok := fun.X.(*ast.Ident); ok && fun.Sel.Name == "Sleep" && pkg.Name == f.nameOf("time") {
			return "time.Sleep; wait for a signal, a watch or injected time"
		}
		return ""
	})
}

func skipsSayWhy(t *tree) []string {
	return t.calls(func(_ *file, call *ast.CallExpr, fun *ast.SelectorExpr) string {
		switch fun.Sel.Name {
		case "SkipNow":
			return "SkipNow says no reason; use Skip"
		case "Skip", "Skipf":
		default:
			return ""
		}
		// A method Skip of something else than a test: not called with a test's usual names.
		if x, ok := fun.X.(*ast.Ident); !ok || !slices.Contains([]string{"t", "b", "f", "tb"}, x.Name) {
			return ""
		}
		if len(call.Args) == 0 || blank(call.Args[0]) {
			return fun.Sel.Name + " without a reason; say what is missing and how to get it"
		}
		return ""
	})
}

// blank reports whether an expression is a literal that says nothing: not a text, no text, or only what a variable has to say. What
// is not a literal is taken for a reason.
func blank(e ast.Expr) bool {
	lit, ok := e.(*ast.BasicLit)
	if !ok {
		return false
	}
	if lit.Kind != token.STRING {
		return true
	}
	text, err := strconv.Unquote(lit.Value)
	return err != nil || strings.Trim(text, "%vsw \t\n") == ""
}

// calls collects what complain says about the method and package calls in test code: test files, and files that import testing.
func (t *tree) calls(complain func(*file, *ast.CallExpr, *ast.SelectorExpr) string) []string {
	var found []string
	for _, f := range t.files {
		if !f.test && !slices.Contains(f.imports, "testing") {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if fun, ok := call.Fun.(*ast.SelectorExpr); ok {
				if text := complain(f, call, fun); text != "" {
					found = append(found, t.at(call)+": "+text)
				}
			}
			return true
		})
	}
	return found
}

// nameOf returns the name under which f knows a package of the standard library; a name that no code can have when it does not
// import it.
func (f *file) nameOf(importPath string) string {
	for i, p := range f.imports {
		if p == importPath {
			if alias := f.syntax.Imports[i].Name; alias != nil {
				return alias.Name
			}
			return path.Base(importPath)
		}
	}
	return "-"
}

func servicesHaveMains(t *tree) []string {
	dirs, err := os.ReadDir(filepath.Join(t.root, "services"))
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		command := d.Name()
		if other, ok := mains[command]; ok {
			command = other
		}
		main := path.Join("services", d.Name(), "cmd", command, "main.go")
		if !slices.ContainsFunc(t.files, func(f *file) bool { return f.path == main && f.syntax.Name.Name == "main" }) {
			found = append(found, main+": there is no such command; each service is a process of its own")
		}
	}
	return found
}
