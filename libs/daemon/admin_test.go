package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// startDaemon runs d until the test ends and returns its admin address.
func startDaemon(t *testing.T, d *Daemon) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	up, ended := make(chan struct{}), make(chan error, 1)
	d.Add("up", func(ctx context.Context) error { close(up); <-ctx.Done(); return nil })
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-up:
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
	return d.AdminURL()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestAdmin(t *testing.T) {
	d, err := New("example", "v1.2.3", DefaultConfig(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if d.AdminURL() != "" {
		t.Error("there is an address before Run")
	}
	var busDown atomic.Bool
	d.Ready("bus", func(context.Context) error {
		if busDown.Load() {
			return errors.New("secret reason")
		}
		return nil
	})
	d.Ready("view", func(context.Context) error { return nil })
	url := startDaemon(t, d)

	for path, want := range map[string]string{
		"/health":       `"status":"ok"`,
		"/ready":        `"status":"ready"`,
		"/metrics":      `agentyard_build_info{goversion="go1.`,
		"/debug/pprof/": "goroutine",
	} {
		if code, body := get(t, url+path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: got %d %q, want %q", path, code, body, want)
		}
	}
	_, metrics := get(t, url+"/metrics")
	for _, want := range []string{`service="example"`, `version="v1.2.3"`, "go_goroutines", "process_cpu_seconds_total"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	for path, want := range map[string]int{"/debug/pprof/cmdline": http.StatusNotFound, "/": http.StatusNotFound} {
		if code, _ := get(t, url+path); code != want {
			t.Errorf("%s: got %d, want %d", path, code, want)
		}
	}

	busDown.Store(true)
	code, body := get(t, url+"/ready")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, `"failing":["bus"]`) {
		t.Errorf("got %d %q, want 503 that names bus and nothing else", code, body)
	}
	if strings.Contains(body, "secret") {
		t.Errorf("the reason left the process: %q", body)
	}
	if code, _ := get(t, url+"/health"); code != http.StatusOK {
		t.Errorf("/health: got %d while not ready", code)
	}
	busDown.Store(false)
	if code, _ := get(t, url+"/ready"); code != http.StatusOK {
		t.Errorf("got %d after recovery", code)
	}
}

func TestAdminAddress(t *testing.T) {
	t.Run("none", func(t *testing.T) {
		d, err := New("test", "v0", Config{}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if url := startDaemon(t, d); url != "" {
			t.Errorf("listens on %s", url)
		}
	})
	t.Run("taken", func(t *testing.T) {
		srv := httptest.NewServer(http.NotFoundHandler())
		defer srv.Close()
		d, err := New("test", "v0", Config{AdminListen: srv.Listener.Addr().String()}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "-admin-listen") {
			t.Errorf("got %v", err)
		}
	})
}

func TestReadiness(t *testing.T) {
	ask := func(r *readiness) (int, []string) {
		rec := httptest.NewRecorder()
		r.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/ready", nil))
		var body struct{ Failing []string }
		_ = json.Unmarshal(rec.Body.Bytes(), &body)
		return rec.Code, body.Failing
	}
	t.Run("a check that hangs fails after 2 s and is started once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var calls atomic.Int64
			release := make(chan struct{})
			r := &readiness{logger: quiet(), checks: []*readyCheck{
				{name: "good", check: func(context.Context) error { return nil }},
				{name: "hung", check: func(context.Context) error { calls.Add(1); <-release; return nil }},
			}}
			for range 3 {
				begin := time.Now()
				code, failing := ask(r)
				if code != http.StatusServiceUnavailable || !slices.Equal(failing, []string{"hung"}) {
					t.Errorf("got %d %v", code, failing)
				}
				if took := time.Since(begin); took != readyTimeout {
					t.Errorf("took %v", took)
				}
			}
			if n := calls.Load(); n != 1 {
				t.Errorf("the check was started %d times", n)
			}
			close(release)
			synctest.Wait()
			if code, failing := ask(r); code != http.StatusOK {
				t.Errorf("after recovery: got %d %v", code, failing)
			}
		})
	})
	t.Run("is over when the process stops", func(t *testing.T) {
		r := &readiness{logger: quiet()}
		r.stopping.Store(true)
		if code, _ := ask(r); code != http.StatusServiceUnavailable {
			t.Errorf("got %d", code)
		}
	})
	t.Run("is logged once per change", func(t *testing.T) {
		var log bytes.Buffer
		var err error
		r := &readiness{logger: slog.New(slog.NewJSONHandler(&log, nil)), checks: []*readyCheck{
			{name: "bus", check: func(context.Context) error { return err }},
		}}
		for _, err = range []error{nil, errors.New("away"), errors.New("away"), nil, nil} {
			ask(r)
		}
		if got := strings.Count(log.String(), "\n"); got != 2 || !strings.Contains(log.String(), "bus: away") {
			t.Errorf("got %d lines:\n%s", got, log.String())
		}
	})
}

func TestTracing(t *testing.T) {
	before := otel.GetTracerProvider()
	t.Cleanup(func() { otel.SetTracerProvider(before) })
	got := make(chan string, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.Method + " " + r.URL.Path + " " + string(body)
	}))
	defer collector.Close()

	var log bytes.Buffer
	d, err := New("example", "v0", Config{OTLP: collector.URL, StopTimeout: 10 * time.Second}, &log)
	if err != nil {
		t.Fatal(err)
	}
	carrier := propagation.MapCarrier{}
	d.Add("work", func(ctx context.Context) error {
		ctx, span := otel.Tracer("test").Start(ctx, "an-operation")
		otel.GetTextMapPropagator().Inject(ctx, carrier)
		d.Logger.InfoContext(ctx, "worked")
		span.End()
		return nil
	})
	if err := d.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case req := <-got:
		if !strings.HasPrefix(req, "POST /v1/traces ") || !strings.Contains(req, "an-operation") || !strings.Contains(req, "example") {
			t.Errorf("the collector got %q", req)
		}
	default:
		t.Error("Run returned before the spans were sent")
	}
	sc := trace.SpanContextFromContext(otel.GetTextMapPropagator().Extract(context.Background(), carrier))
	if !sc.IsValid() || carrier["traceparent"] == "" {
		t.Errorf("the trace was not propagated: %v", carrier)
	}
	if !strings.Contains(log.String(), `"trace_id":"`+sc.TraceID().String()+`"`) {
		t.Errorf("the log line lacks its trace: %s", log.String())
	}
}

func TestTracesURL(t *testing.T) {
	for in, want := range map[string]string{
		"http://h:4318":         "http://h:4318/v1/traces",
		"https://h/":            "https://h/v1/traces",
		"http://h:4318/v1/mine": "http://h:4318/v1/mine",
		"h:4318":                "",
		"ftp://h":               "",
		"http://":               "",
	} {
		if got, err := tracesURL(in); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v", in, got, err)
		}
	}
}
