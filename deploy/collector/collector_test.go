package collector

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
)

const patience = 2 * time.Minute

// received takes what a collector sends by OTLP over HTTP.
func received(t *testing.T) (url string, sent <-chan pmetric.Metrics) {
	t.Helper()
	all := make(chan pmetric.Metrics, 64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var body io.Reader = req.Body
		if req.Header.Get("Content-Encoding") == "gzip" {
			unzipped, err := gzip.NewReader(body)
			if err != nil {
				t.Error(err)
				return
			}
			body = unzipped
		}
		data, err := io.ReadAll(body)
		export := pmetricotlp.NewExportRequest()
		if err == nil {
			err = export.UnmarshalProto(data)
		}
		if err != nil || req.URL.Path != "/v1/metrics" {
			t.Errorf("%s: %v", req.URL.Path, err)
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		select {
		case all <- export.Metrics():
		default:
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, all
}

// TestSidecar runs a collector with the configuration that a session's pod gives it, beside an agent's metrics: they arrive as those of the session, whatever the
// agent itself says of whose they are.
func TestSidecar(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "services", "sessions", "kube", "testdata", "collector.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "# TYPE claude_tokens counter\nclaude_tokens_total{instance=\"another\",agentyard_session=\"another\",model=\"m\"} 42\n")
	}))
	t.Cleanup(agent.Close)
	endpoint, sent := received(t)

	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	targets, err := json.Marshal([]map[string]any{{"targets": []string{strings.TrimPrefix(agent.URL, "http://")}, "labels": map[string]string{"instance": "s1"}}})
	if err != nil {
		t.Fatal(err)
	}
	config := string(text)
	for old, now := range map[string]string{"/etc/collector-targets/targets.json": write("targets.json", "[]"), "http://otel:4318": endpoint, "scrape_interval: 15s": "scrape_interval: 1s"} {
		if strings.Count(config, old) != 1 {
			t.Fatalf("the configuration has not one %q:\n%s", old, config)
		}
		config = strings.Replace(config, old, now, 1)
	}
	for name, value := range map[string]string{"TENANT": "acme", "PROFILE": "careful", "POD": "s1-1", "NAMESPACE": "yard-sessions", "NODE": "node1"} {
		t.Setenv("YARD_"+name, value)
	}

	c, err := otelcol.NewCollector(otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "otelcol", Version: "test"}, Factories: components, DisableGracefulShutdown: true,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			URIs:              []string{"file:" + write("collector.yaml", config)},
			ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory(), envprovider.NewFactory()},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.DryRun(t.Context()); err != nil {
		t.Fatalf("the configuration is refused: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the collector ended: %v", err)
		}
	}()
	write("targets.json", string(targets)) // as when a session takes a pod that waited

	want := map[string]string{
		"service.name": "agentyard-session", "service.namespace": "acme", "service.instance.id": "s1",
		"agentyard.tenant": "acme", "agentyard.session": "s1", "agentyard.profile": "careful",
		"k8s.namespace.name": "yard-sessions", "k8s.pod.name": "s1-1", "k8s.node.name": "node1",
	}
	deadline := time.After(patience)
	for found := false; !found; {
		select {
		case m := <-sent:
			for _, r := range m.ResourceMetrics().All() {
				attributes := r.Resource().Attributes().AsRaw()
				for _, scope := range r.ScopeMetrics().All() {
					for _, metric := range scope.Metrics().All() {
						if !strings.HasPrefix(metric.Name(), "claude_tokens") {
							continue
						}
						found = true
						point := metric.Sum().DataPoints().At(0)
						if model, _ := point.Attributes().Get("model"); point.DoubleValue() != 42 || model.Str() != "m" {
							t.Errorf("%s is %v of %v", metric.Name(), point.DoubleValue(), point.Attributes().AsRaw())
						}
					}
				}
				for key, value := range want {
					if found && attributes[key] != value {
						t.Errorf("%s is %v, want %s", key, attributes[key], value)
					}
				}
				if _, there := attributes["server.address"]; found && there {
					t.Errorf("it says an address: %v", attributes)
				}
			}
		case err := <-ended:
			ended <- nil
			t.Fatalf("the collector ended: %v", err)
		case <-deadline:
			t.Fatal("nothing was sent")
		}
	}
}
