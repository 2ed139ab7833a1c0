package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	rpprof "runtime/pprof"
	"strconv"
	"sync"
	"syscall"
	"time"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/parts"
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
	Profile    string `json:"profile"` // file of the bus's processor profile; empty: none
}

// keyring opens the keyring, which is made when there is none.
func (o order) keyring() (*bus.Keyring, error) { return bus.OpenKeyring(filepath.Join(o.Dir, "keys")) }

// connect connects with the bus as one of the services does.
func (o order) connect(ring *bus.Keyring, service string, logger *slog.Logger) (*bus.Conn, error) {
	creds, err := ring.ServiceCredentials(service)
	if err != nil {
		return nil, err
	}
	return bus.Connect(bus.Config{URL: o.BusURL, Credentials: creds, Name: service, Logger: logger})
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
	ring, err := o.keyring()
	if err != nil {
		return err
	}
	srv, err := bus.StartServer(ctx, bus.ServerConfig{Dir: o.Dir + "/store", Listen: "127.0.0.1:0", Keyring: ring, MaxStore: 4 << 30})
	if err != nil {
		return err
	}
	defer srv.Close()
	if o.Profile != "" {
		f, err := os.Create(o.Profile)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		if err := rpprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer rpprof.StopCPUProfile()
	}
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
	level := slog.LevelError
	if o.Verbose {
		level = slog.LevelInfo
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ring, err := o.keyring()
	if err != nil {
		return err
	}
	conn, err := o.connect(ring, "sessions", logger)
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
	group, ctx := parts.New(ctx)
	defer group.Stop()
	group.Go("bus", conn.Run)
	group.Go("runtime", pods.Run)
	group.Go("sessions", service.Run)
	address, err := counted.listen(group)
	if err != nil {
		return err
	}
	if err := wait(ctx, "the service", func() bool { return service.Ready(ctx) == nil }); err == nil {
		fmt.Println(address)
	}
	return group.Wait()
}

// listen serves /stats and the processor profile on loopback.
func (c *calls) listen(group *parts.Group) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/stats", c.serve)
	mux.HandleFunc("/profile", pprof.Profile)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	group.Go("serve", func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
		return srv.Serve(l)
	})
	return "http://" + l.Addr().String(), nil
}
