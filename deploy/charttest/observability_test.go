package charttest

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// exported finds the metrics that the code registers: each name, and the labels of vectors. Names of ours begin with agentyard_ or
// yard_ and stand in the source as they are.
func exported(t *testing.T) map[string][]string {
	t.Helper()
	name := regexp.MustCompile(`^(agentyard|yard)_[a-z_]+$`)
	found := map[string][]string{}
	for _, top := range []string{"libs", "services"} {
		err := filepath.WalkDir(filepath.Join(Root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				if os.IsNotExist(err) {
					return nil // somebody's editor was at work
				}
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return strings.Contains(i.Path.Value, "client_golang/prometheus") }) {
				return nil
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.BasicLit:
					if s, err := strconv.Unquote(n.Value); err == nil && name.MatchString(s) && found[s] == nil {
						found[s] = []string{}
					}
				case *ast.CompositeLit:
					if s, labels := constant(n); s != "" {
						found[s] = append(found[s], labels...)
					}
				case *ast.CallExpr:
					if s, labels := vector(n); s != "" {
						found[s] = append(found[s], labels...)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(found) < 10 {
		t.Fatalf("found only %v", found)
	}
	return found
}

// vector reads prometheus.New…Vec(Opts{Name: …}, []string{labels}).
func vector(call *ast.CallExpr) (name string, labels []string) {
	if len(call.Args) != 2 {
		return "", nil
	}
	opts, ok := call.Args[0].(*ast.CompositeLit)
	list, ok2 := call.Args[1].(*ast.CompositeLit)
	if !ok || !ok2 {
		return "", nil
	}
	return field(opts, "Name"), texts(list)
}

// constant reads Opts{Name: …, ConstLabels: Labels{label: …}}.
func constant(opts *ast.CompositeLit) (name string, labels []string) {
	for _, e := range opts.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		if id, ok := kv.Key.(*ast.Ident); ok && id.Name == "ConstLabels" {
			if m, ok := kv.Value.(*ast.CompositeLit); ok {
				for _, e := range m.Elts {
					if kv, ok := e.(*ast.KeyValueExpr); ok {
						labels = append(labels, literal(kv.Key))
					}
				}
				return field(opts, "Name"), labels
			}
		}
	}
	return "", nil
}

func field(opts *ast.CompositeLit, name string) string {
	for _, e := range opts.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if id, ok := kv.Key.(*ast.Ident); ok && id.Name == name {
				return literal(kv.Value)
			}
		}
	}
	return ""
}

func texts(list *ast.CompositeLit) (all []string) {
	for _, e := range list.Elts {
		if s := literal(e); s != "" {
			all = append(all, s)
		}
	}
	return all
}

func literal(e ast.Expr) string {
	if lit, ok := e.(*ast.BasicLit); ok {
		if s, err := strconv.Unquote(lit.Value); err == nil {
			return s
		}
	}
	return ""
}

// elsewhere are metrics of the Go runtime's and process's collectors, which libs/daemon registers, and labels that Prometheus adds.
var (
	elsewhere      = []string{"process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes"}
	scrapedLabels  = []string{"instance", "job", "namespace", "pod", "le"}
	promqlWords    = []string{"sum", "max", "min", "avg", "count", "by", "without", "rate", "increase", "changes", "histogram_quantile", "absent", "or", "and", "unless", "on", "ignoring", "group_left", "group_right"}
	word           = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*`)
	quoted         = regexp.MustCompile(`"[^"]*"`)
	ranges         = regexp.MustCompile(`\[[^\]]*\]`)
	selector       = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)?\{([^}]*)\}`)
	grouping       = regexp.MustCompile(`\b(?:by|without|on|ignoring|group_left|group_right) *\(([^)]*)\)`)
	histogramParts = regexp.MustCompile(`_(bucket|count|sum)$`)
)

// promql returns what is wrong with the names in an expression.
func promql(expr string, metrics map[string][]string) (wrong []string) {
	if strings.Count(expr, "(") != strings.Count(expr, ")") || strings.Count(expr, "{") != strings.Count(expr, "}") {
		wrong = append(wrong, "its parentheses do not match")
	}
	known := func(metric string) ([]string, bool) {
		if slices.Contains(elsewhere, metric) {
			return nil, true
		}
		if labels, ok := metrics[metric]; ok {
			return labels, true
		}
		labels, ok := metrics[histogramParts.ReplaceAllString(metric, "")]
		return labels, ok
	}
	bare := ranges.ReplaceAllString(quoted.ReplaceAllString(expr, `""`), "")
	labels := slices.Clone(scrapedLabels)
	for _, m := range word.FindAllString(grouping.ReplaceAllString(selector.ReplaceAllString(bare, "$1 "), " "), -1) {
		if slices.Contains(promqlWords, m) || strings.HasPrefix(m, "e") && len(m) == 1 {
			continue
		}
		own, ok := known(m)
		if !ok {
			wrong = append(wrong, "nothing exports "+m)
		}
		labels = append(labels, own...)
	}
	for _, s := range selector.FindAllStringSubmatch(bare, -1) {
		own, _ := known(s[1])
		for _, l := range word.FindAllString(s[2], -1) {
			if !slices.Contains(own, l) && !slices.Contains(scrapedLabels, l) {
				wrong = append(wrong, s[1]+" has no label "+l)
			}
		}
	}
	for _, g := range grouping.FindAllStringSubmatch(bare, -1) {
		for _, l := range word.FindAllString(g[1], -1) {
			if !slices.Contains(labels, l) {
				wrong = append(wrong, "nothing here has the label "+l)
			}
		}
	}
	return wrong
}

func TestDashboardsShowWhatIsExported(t *testing.T) {
	metrics := exported(t)
	files, err := filepath.Glob(filepath.Join(Helm("agentyard"), "dashboards", "*.json"))
	if err != nil || len(files) < 2 {
		t.Fatalf("dashboards: %v, %v", files, err)
	}
	uids := map[string]bool{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var board struct {
			UID, Title string
			Panels     []struct {
				Title, Description, Type string
				Targets                  []struct{ Expr string }
			}
			Templating struct {
				List []struct{ Type, Definition string }
			}
		}
		if err := json.Unmarshal(data, &board); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if board.UID == "" || uids[board.UID] || board.Title == "" {
			t.Errorf("%s: uid %q, title %q", file, board.UID, board.Title)
		}
		uids[board.UID] = true
		for _, p := range board.Panels {
			if p.Type != "row" && (p.Description == "" || len(p.Targets) == 0) {
				t.Errorf("%s, %s: no description or nothing to show", file, p.Title)
			}
			for _, target := range p.Targets {
				for _, w := range promql(target.Expr, metrics) {
					t.Errorf("%s, %s: %s in %s", filepath.Base(file), p.Title, w, target.Expr)
				}
			}
		}
		for _, v := range board.Templating.List {
			if metric, label, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(v.Definition, "label_values("), ")"), ", "); ok {
				if own, known := metrics[metric]; !known || !slices.Contains(own, label) {
					t.Errorf("%s: the variable %s: %s has no label %s", file, v.Definition, metric, label)
				}
			}
		}
	}
}

func TestAlertsHaveARunbook(t *testing.T) {
	metrics := exported(t)
	data, err := os.ReadFile(filepath.Join(Helm("agentyard"), "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Rules []struct{ Alert, Expr, For, Severity, Summary string }
	}
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		t.Fatal(err)
	}
	runbook, err := os.ReadFile(filepath.Join(Root, "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^### (Agentyard\w+)\n\n\S`).FindAllStringSubmatch(string(runbook), -1) {
		sections[m[1]] = true
	}
	if len(file.Rules) < 10 {
		t.Fatalf("only %d alerts", len(file.Rules))
	}
	for _, r := range file.Rules {
		if !sections[r.Alert] {
			t.Errorf("docs/operations.md has no section for %s", r.Alert)
		}
		delete(sections, r.Alert)
		for _, w := range promql(r.Expr, metrics) {
			t.Errorf("%s: %s", r.Alert, w)
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Severity) || !regexp.MustCompile(`^\d+[mh]$`).MatchString(r.For) || !strings.HasSuffix(r.Summary, ".") {
			t.Errorf("%s: severity %q, for %q, summary %q", r.Alert, r.Severity, r.For, r.Summary)
		}
	}
	for s := range sections {
		t.Errorf("docs/operations.md has a section for %s, which is no alert", s)
	}
}

func TestWrongExpressionsAreFound(t *testing.T) {
	metrics := map[string][]string{"yard_op_duration_seconds": {"service", "op", "code"}, "agentyard_sessions": {"state"}}
	for expr, want := range map[string]string{
		`sum by (state) (agentyard_sessions{state="running"})`:                                  "",
		`histogram_quantile(0.99, sum by (le, op) (rate(yard_op_duration_seconds_bucket[5m])))`: "",
		`agentyard_session`:                     "nothing exports agentyard_session",
		`rate(yard_op_seconds_count[5m]) > 0.5`: "nothing exports yard_op_seconds_count",
		`agentyard_sessions{status="running"}`:  "agentyard_sessions has no label status",
		`sum by (tenant) (agentyard_sessions)`:  "nothing here has the label tenant",
		`sum(agentyard_sessions`:                "its parentheses do not match",
		`summ(agentyard_sessions)`:              "nothing exports summ",
	} {
		if got := strings.Join(promql(expr, metrics), "; "); got != want {
			t.Errorf("%s: got %q, want %q", expr, got, want)
		}
	}
}

// The example's pipelines name components that it has.
func TestCollectorExample(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(Root, "deploy", "examples", "otel-collector.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	config := map[string]any{}
	if err := yaml.UnmarshalStrict(data, &config); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for name, p := range asMap(dig(config, "service", "pipelines")) {
		for _, kind := range []string{"receivers", "processors", "exporters"} {
			list, _ := asMap(p)[kind].([]any)
			if len(list) == 0 {
				t.Errorf("pipeline %s has no %s", name, kind)
			}
			for _, c := range list {
				used[kind+"/"+text(c)] = true
				if _, ok := asMap(config[kind])[text(c)]; !ok {
					t.Errorf("pipeline %s: there is no %s in %s", name, c, kind)
				}
			}
		}
	}
	for _, kind := range []string{"receivers", "processors", "exporters"} {
		for name := range asMap(config[kind]) {
			if !used[kind+"/"+name] {
				t.Errorf("no pipeline uses %s in %s", name, kind)
			}
		}
	}
}

// What a person is told to look at exists.
func TestDocumentsNameWhatIsExported(t *testing.T) {
	metrics := exported(t)
	ours := regexp.MustCompile(`\b(?:agentyard|yard)_[a-z_]+`)
	files, err := filepath.Glob(filepath.Join(Root, "docs", "*.md"))
	if err != nil || len(files) == 0 {
		t.Fatalf("docs: %v", err)
	}
	found := 0
	for _, file := range append(files, filepath.Join(Root, "README.md"), filepath.Join(Root, "deploy", "examples", "otel-collector.yaml")) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range ours.FindAllString(string(data), -1) {
			found++
			if strings.HasSuffix(name, "_") { // all that begin so
				if !slices.ContainsFunc(slices.Collect(maps.Keys(metrics)), func(m string) bool { return strings.HasPrefix(m, name) }) {
					t.Errorf("%s: nothing exports %s…", filepath.Base(file), name)
				}
				continue
			}
			if _, ok := metrics[name]; !ok && metrics[histogramParts.ReplaceAllString(name, "")] == nil {
				t.Errorf("%s: nothing exports %s", filepath.Base(file), name)
			}
		}
	}
	if found == 0 {
		t.Error("no document names a metric")
	}
}

// What an operator counts first is on a dashboard.
func TestDashboardsShowSessions(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(Helm("agentyard"), "dashboards", "work.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"agentyard_sessions{", "agentyard_sessions_pool_runners", "agentyard_session_start_seconds_bucket"} {
		if !strings.Contains(string(data), name) {
			t.Errorf("no dashboard shows %s", name)
		}
	}
}
