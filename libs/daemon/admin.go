package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// readyTimeout is what all readiness checks together may take: kubelet's own patience is 1 s by default and often 3 s.
	readyTimeout = 2 * time.Second
	// adminTimeout bounds an answer; it leaves room for a CPU profile of a minute.
	adminTimeout = 65 * time.Second
)

// Ready adds a readiness check: /ready answers 200 when all checks return nil within 2 s, and else 503 with the names of those that do not.
// A check that is still at work when it is wanted again is not started a second time.
func (d *Daemon) Ready(name string, check func(context.Context) error) {
	d.ready.checks = append(d.ready.checks, &readyCheck{name: name, check: check})
}

// ReadyHandler returns what answers /ready on the admin server, for a service that has it on its own port too.
func (d *Daemon) ReadyHandler() http.Handler { return &d.ready }

// HealthHandler returns what answers /health: 200 as long as the process serves at all.
func (d *Daemon) HealthHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeStatus(w, http.StatusOK, "ok", nil)
	})
}

// listenAdmin binds the admin server's address and returns the actor that serves on it.
func (d *Daemon) listenAdmin(ctx context.Context) (*actor, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", d.cfg.AdminListen)
	if err != nil {
		return nil, fmt.Errorf("listen for the admin server (-admin-listen): %w", err)
	}
	d.mu.Lock()
	d.adminURL = "http://" + l.Addr().String()
	d.mu.Unlock()

	mux := http.NewServeMux()
	mux.Handle("GET /health", d.HealthHandler())
	mux.Handle("GET /ready", d.ReadyHandler())
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.Metrics, promhttp.HandlerOpts{
		Registry: d.Metrics, MaxRequestsInFlight: 4, EnableOpenMetrics: true,
	}))
	// Without pprof's cmdline: it is the only one that would show configuration.
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)

	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      adminTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(d.Logger.Handler(), slog.LevelDebug),
	}
	return &actor{name: "admin", run: func(ctx context.Context) error { return serve(ctx, srv, l) }}, nil
}

// serve serves on l until ctx ends. Requests in flight get a second: nobody waits for a metric of a process that stops.
func serve(ctx context.Context, srv *http.Server, l net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		_ = srv.Close() // the connections that were too slow
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// readiness is the set of checks and their common answer.
type readiness struct {
	logger   *slog.Logger
	checks   []*readyCheck
	stopping atomic.Bool

	mu   sync.Mutex
	last string // the failing checks, as last logged
}

// ServeHTTP answers with the names of the checks that fail; why they do is in the log, once per change.
func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if r.stopping.Load() {
		writeStatus(w, http.StatusServiceUnavailable, "stopping", nil)
		return
	}
	ctx, cancel := context.WithTimeout(req.Context(), readyTimeout)
	defer cancel()
	failing, reasons := r.run(ctx)
	if req.Context().Err() != nil {
		return // the caller left; what failed, failed for that
	}
	r.logChange(failing, reasons)
	if len(failing) > 0 {
		writeStatus(w, http.StatusServiceUnavailable, "not ready", failing)
		return
	}
	writeStatus(w, http.StatusOK, "ready", nil)
}

// run runs all checks at once and returns the names of those that fail, in the order of adding, and why.
func (r *readiness) run(ctx context.Context) (failing []string, reasons error) {
	errs := make([]error, len(r.checks))
	var wg sync.WaitGroup
	for i, c := range r.checks {
		wg.Go(func() { errs[i] = c.result(ctx) })
	}
	wg.Wait()
	var all []error
	for i, c := range r.checks {
		if errs[i] != nil {
			failing = append(failing, c.name)
			all = append(all, fmt.Errorf("%s: %w", c.name, errs[i]))
		}
	}
	return failing, errors.Join(all...)
}

func (r *readiness) logChange(failing []string, reasons error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := strings.Join(failing, ",")
	if now == r.last {
		return
	}
	r.last = now
	if now == "" {
		r.logger.Info("ready")
		return
	}
	r.logger.Warn("not ready", "failing", slices.Clone(failing), "err", reasons)
}

// readyCheck is one check, of which at most one call is under way.
type readyCheck struct {
	name  string
	check func(context.Context) error

	mu      sync.Mutex
	current *checkCall
}

type checkCall struct {
	done chan struct{}
	err  error // read after done
}

// result returns the check's answer, joining a call that is under way, or ctx's error.
func (c *readyCheck) result(ctx context.Context) error {
	c.mu.Lock()
	call := c.current
	if call == nil {
		call = &checkCall{done: make(chan struct{})}
		c.current = call
		go c.call(context.WithoutCancel(ctx), call)
	}
	c.mu.Unlock()
	select {
	case <-call.done:
		return call.err
	case <-ctx.Done():
		return fmt.Errorf("no answer: %w", ctx.Err())
	}
}

// call runs the check with a deadline of its own: other callers than the first may wait for it.
func (c *readyCheck) call(ctx context.Context, call *checkCall) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	call.err = c.check(ctx)
	c.mu.Lock()
	c.current = nil
	c.mu.Unlock()
	close(call.done)
}

func writeStatus(w http.ResponseWriter, code int, status string, failing []string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(struct {
		Status  string   `json:"status"`
		Failing []string `json:"failing,omitempty"`
	}{status, failing})
}
