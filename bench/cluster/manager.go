package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/token"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/kube"
)

// The hidden commands of this program.
const (
	busVerb     = "bus"
	managerVerb = "manager"
)

// order is what a part that runs as a process of its own is told on its standard input. It answers with a line on its standard output when it is ready, and ends
// when its input does.
type order struct {
	Dir        string `json:"dir"` // of the bus's store and the keyring
	BusURL     string `json:"bus_url"`
	Kubeconfig string `json:"kubeconfig"`
	Namespace  string `json:"namespace"`
	KeyID      string `json:"key_id"` // that signs the clients' tokens
	Key        []byte `json:"key"`
	Verbose    bool   `json:"verbose"`
}

// orders reads the order and returns a context that ends with the input.
func orders() (order, context.Context, error) {
	var o order
	in := json.NewDecoder(os.Stdin)
	if err := in.Decode(&o); err != nil {
		return o, nil, fmt.Errorf("read what to do: %w", err)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	go func() { // until the process ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return o, ctx, nil
}

// serveBus is the bus.
func serveBus() error {
	o, ctx, err := orders()
	if err != nil {
		return err
	}
	ring, err := bus.OpenKeyring(o.Dir + "/keys")
	if err != nil {
		return err
	}
	srv, err := bus.StartServer(ctx, bus.ServerConfig{Dir: o.Dir + "/store", Listen: "127.0.0.1:0", Keyring: ring, MaxStore: 4 << 30})
	if err != nil {
		return err
	}
	defer srv.Close()
	fmt.Println(srv.URL())
	<-ctx.Done()
	return nil
}

// stats is what the manager says of itself.
type stats struct {
	Writes map[string]int `json:"writes"` // requests to the API server that change something, by method, those that were refused with their status
	Reads  int            `json:"reads"`  // and the others
	Heap   uint64         `json:"heap"`   // in use after a collection
	CPU    time.Duration  `json:"cpu"`    // used since the process began
}

// calls counts what the runtime asks the API server.
type calls struct {
	mu     sync.Mutex
	writes map[string]int
	reads  int
}

func (c *calls) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		res, err := next.RoundTrip(req)
		c.mu.Lock()
		defer c.mu.Unlock()
		if req.Method == http.MethodGet {
			c.reads++
			return res, err
		}
		kind := req.Method
		switch {
		case err != nil:
			kind += " failed"
		case res.StatusCode >= http.StatusBadRequest:
			kind += " " + strconv.Itoa(res.StatusCode)
		}
		c.writes[kind]++
		return res, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func (c *calls) serve(w http.ResponseWriter, _ *http.Request) {
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // of oneself it does not fail
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = json.NewEncoder(w).Encode(stats{
		Writes: c.writes, Reads: c.reads, Heap: mem.HeapAlloc, CPU: time.Duration(used.Utime.Nano() + used.Stime.Nano()),
	})
}

type keys map[string]ed25519.PublicKey

func (k keys) VerifyingKeys() map[string]ed25519.PublicKey { return k }

// manage is the sessions service as cmd/sessions makes it, with a key of its own to verify tokens and counters between it and the cluster.
func manage() error {
	o, ctx, err := orders()
	if err != nil {
		return err
	}
	ring, err := bus.OpenKeyring(o.Dir + "/keys")
	if err != nil {
		return err
	}
	creds, err := ring.ServiceCredentials("sessions")
	if err != nil {
		return err
	}
	level := slog.LevelError
	if o.Verbose {
		level = slog.LevelInfo
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	conn, err := bus.Connect(bus.Config{URL: o.BusURL, Credentials: creds, Name: "sessions", Logger: logger})
	if err != nil {
		return err
	}
	kcfg := kube.DefaultConfig()
	kcfg.Kubeconfig, kcfg.Namespace = o.Kubeconfig, o.Namespace
	cluster, err := kcfg.Connect()
	if err != nil {
		return err
	}
	counted := &calls{writes: map[string]int{}}
	cluster.Wrap(counted.wrap)
	issuer := ring.SessionIssuer()
	pods := kube.New(kcfg, kube.Deps{Cluster: cluster, BusURL: o.BusURL, Credentials: issuer.PodCredentials, Logger: logger})
	cfg := sessions.DefaultConfig()
	cfg.MaxPerUser, cfg.MaxPerTenant, cfg.IdleTimeout = 0, 0, 0
	service := sessions.New(cfg, sessions.Deps{
		Conn: conn, Auth: token.NewVerifier(keys{o.KeyID: o.Key}, nil, nil), Issuer: issuer, BusURL: o.BusURL, Runtime: pods, Info: pods.Info(),
		Kind:     func(name string) bool { return name == "demo" },
		CheckURL: func(context.Context, string) error { return nil },
		Logger:   logger,
	})
	var parts sync.WaitGroup
	defer parts.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 3)
	for _, part := range []func(context.Context) error{conn.Run, pods.Run, service.Run} {
		parts.Go(func() {
			if err := part(ctx); err != nil {
				failed <- err
			}
			cancel()
		})
	}
	address, err := counted.listen(ctx, &parts)
	if err != nil {
		return err
	}
	for service.Ready(ctx) != nil {
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	fmt.Println(address)
	<-ctx.Done()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// listen serves /stats and the processor profile on loopback.
func (c *calls) listen(ctx context.Context, parts *sync.WaitGroup) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/stats", c.serve)
	mux.HandleFunc("/profile", pprof.Profile)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	parts.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "serve:", err)
		}
	})
	parts.Go(func() {
		<-ctx.Done()
		_ = srv.Close()
	})
	return "http://" + l.Addr().String(), nil
}
