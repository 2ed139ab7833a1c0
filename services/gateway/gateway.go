// Package gateway is agentyard's only door: it authenticates whoever asks, answers the operations of libs/api over HTTP,
// streams sessions' events (SSE and WebSocket), and forwards requests to a session's own HTTP surface.
//
// Guarantees: a stream that is resumed with its last event id has neither gap nor duplicate, on any replica; a client that reads
// slowly or never costs a bounded amount of memory and slows nobody; whatever belongs to another tenant does not exist;
// an API key that is revoked opens nothing and its streams end within about a second. A request that is forwarded to a session
// that runs costs no round trip to the bus or to Redis: authentication, permission and address come from memory. One to a session that was put
// aside waits until that is back.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/limit"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
	"agentyard.dev/libs/trust"
)

const (
	maxHeader       = 32 << 10         // of a request; the largest cookie and token fit ten times
	headerTimeout   = 10 * time.Second // for a request's head to arrive
	idleTimeout     = 2 * time.Minute  // of a connection between requests; above common load balancers' 60 s
	bodyReadTimeout = 30 * time.Second // without a byte of a request's body
	drainTimeout    = 10 * time.Second // for requests in flight when the gateway stops
	recheckInterval = 500 * time.Millisecond
	// maxReads bounds the streams that begin to read the log at the same time: each read holds a page in memory, and
	// after a restart every client comes back at once.
	maxReads          = 128
	heartbeatInterval = 15 * time.Second // below common proxies' idle timeout of 30 s
)

// Deps is what a gateway works with. All fields but Metrics are required.
type Deps struct {
	Bus   *bus.Conn
	Trust *trust.Store // whoever constructs it runs it
	// Limiter is shared by all replicas; Local limits within the process, for what must not cost a round trip.
	Limiter limit.Limiter
	Local   limit.Limiter
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Gateway is one replica.
type Gateway struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	guard   *guard
	rpc     *rpc.Client
	auth    *authn
	table   *table
	hub     *bus.Hub
	streams *streams
	tickets *tickets
	once    *idempotency
	mux     *http.ServeMux
	ops     map[string]api.OpInfo // by pattern in mux
	proxy   *proxy
	feed    *feed
	tasks   *tasks
	blobs   *bus.Blobs
	docs    *docs
	proxies []netip.Prefix

	reads   chan struct{}   // holds one of maxReads places while a stream waits for its first events
	held    chan struct{}   // holds one of maxHeld places while a request waits for a session to come back
	base    context.Context // of every request; ends when streams must
	addr    atomic.Pointer[string]
	preview atomic.Pointer[string]
	bound   chan struct{} // closed when the listeners are open
	seen    atomic.Bool   // auth and sessions have answered
	sockets sync.WaitGroup
}

// New returns a gateway that has not touched the network. It fails for a configuration that cannot work.
func New(cfg Config, deps Deps) (*Gateway, error) {
	cfg = cfg.withDefaults()
	guard, err := newGuard(cfg)
	if err != nil {
		return nil, err
	}
	proxies, err := cfg.trusted()
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		cfg: cfg, deps: deps, log: deps.Logger, guard: guard, proxies: proxies,
		metrics: newMetrics(deps.Metrics),
		rpc:     rpc.NewClient(deps.Bus, rpc.ClientConfig{Name: "gateway", Metrics: deps.Metrics}),
		hub:     bus.NewHub(bus.ReadLog(deps.Bus)),
		mux:     http.NewServeMux(),
		ops:     map[string]api.OpInfo{},
		bound:   make(chan struct{}),
		reads:   make(chan struct{}, maxReads),
		held:    make(chan struct{}, maxHeld),
	}
	verifier := token.NewVerifier(deps.Trust, deps.Trust, nil)
	g.auth = newAuthn(verifier, func(ctx context.Context, req api.ExchangeRequest) (api.TokenResponse, error) {
		return rpc.Call(ctx, g.rpc, api.Exchange, req)
	})
	g.streams = newStreams(g.auth, g.metrics, cfg.MaxStreams, g.visible)
	g.feed = newFeed()
	g.table = newTable(deps.Bus, g.onSession)
	g.tasks, g.blobs = newTasks(deps.Bus, g.feed.notify), bus.ReadBlobs(deps.Bus)
	g.tickets = &tickets{}
	g.once = &idempotency{log: g.log}
	g.proxy = newProxy()
	if g.docs, err = newDocs(); err != nil {
		return nil, fmt.Errorf("describe the API: %w", err)
	}
	deps.Trust.OnRevoke(func(kind, id string) { g.streams.recheckNow() })
	g.routes()
	return g, nil
}

// onSession is told of each change of a session, in order.
func (g *Gateway) onSession(old, now *row) {
	if now == nil {
		g.streams.endSession(old.key, errGone)
		g.feed.notify(old.key)
		g.proxy.drop(old.to)
		return
	}
	if old != nil && old.to != now.to {
		g.proxy.drop(old.to)
	}
	if old != nil && old.rec.Owner != now.rec.Owner {
		g.streams.recheckNow()
	}
	g.feed.notify(now.key)
}

// Run serves until ctx ends; then it ends the streams, lets requests in flight finish and returns.
// It listens at once, and is not Ready before the bus, the session table and the verifying keys are there.
func (g *Gateway) Run(ctx context.Context) error {
	base, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	g.base = base

	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", g.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	servers := []*http.Server{g.server(http.HandlerFunc(g.serve))}
	listeners := []net.Listener{ln}
	if g.cfg.PreviewListen != "" {
		pl, err := lc.Listen(ctx, "tcp", g.cfg.PreviewListen)
		if err != nil {
			return errors.Join(fmt.Errorf("listen for previews: %w", err), ln.Close())
		}
		servers = append(servers, g.server(http.HandlerFunc(g.servePreview)))
		listeners = append(listeners, pl)
		s := "http://" + pl.Addr().String()
		g.preview.Store(&s)
	}
	s := "http://" + ln.Addr().String()
	g.addr.Store(&s)
	close(g.bound)

	var workers sync.WaitGroup
	failed := make(chan error, len(servers)+2) // one place for each who may send
	work, stopWork := context.WithCancel(base)
	workers.Go(func() { g.openLedgers(work) })
	workers.Go(func() {
		if err := g.table.run(work); err != nil && work.Err() == nil {
			failed <- fmt.Errorf("follow the sessions: %w", err)
		}
	})
	workers.Go(func() {
		if err := g.tasks.view.Run(work); err != nil && work.Err() == nil {
			failed <- fmt.Errorf("follow the tasks: %w", err)
		}
	})
	workers.Go(func() { g.streams.run(work) })
	workers.Go(func() { g.auth.run(work) })
	workers.Go(func() { g.proxy.run(work) })
	fronts := make([]*front, len(servers))
	for i, srv := range servers {
		fronts[i] = newFront(g, listeners[i], i == 0) // previews are never plain reads of the API
		workers.Go(fronts[i].run)
		workers.Go(func() {
			if err := srv.Serve(fronts[i]); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve: %w", err)
			}
		})
	}

	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	g.streams.endAll(errStopping)
	for _, f := range fronts {
		f.stop()
		f.wait(stop)
	}
	for _, srv := range servers {
		if e := srv.Shutdown(stop); e != nil {
			_ = srv.Close()
		}
	}
	endStreams()
	stopWork()
	workers.Wait()
	g.sockets.Wait()
	g.proxy.close()
	return err
}

func (g *Gateway) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return g.base },
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

// openLedgers makes the gateway's own ledgers, as soon as the bus is there.
func (g *Gateway) openLedgers(ctx context.Context) {
	for ctx.Err() == nil {
		t, err := bus.OpenLedger[ticket](ctx, g.deps.Bus, bus.LedgerConfig{Noun: "tickets", MaxAge: 2 * ticketLife, History: 2})
		if err == nil {
			g.tickets.ledger.Store(t)
			break
		}
		g.retryLater(ctx, "tickets", err)
	}
	for ctx.Err() == nil {
		l, err := bus.OpenLedger[answer](ctx, g.deps.Bus, bus.LedgerConfig{Noun: "idempotency", MaxAge: answerLife, History: 2})
		if err == nil {
			g.once.ledger.Store(l)
			break
		}
		g.retryLater(ctx, "idempotency", err)
	}
}

func (g *Gateway) retryLater(ctx context.Context, noun string, err error) {
	if ctx.Err() != nil {
		return
	}
	g.log.Warn("open ledger", "noun", noun, "err", err)
	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
}

// Bound is closed when the gateway listens; URL is known from then on.
func (g *Gateway) Bound() <-chan struct{} { return g.bound }

// URL returns the API's address, "http://host:port"; empty before Bound.
func (g *Gateway) URL() string { return load(&g.addr) }

// PreviewURL returns the address of port previews, if they have one of their own; empty before Bound.
func (g *Gateway) PreviewURL() string { return load(&g.preview) }

func load(p *atomic.Pointer[string]) string {
	if s := p.Load(); s != nil {
		return *s
	}
	return ""
}

// Ready returns nil when the gateway can do its work, and else what it waits for.
func (g *Gateway) Ready(ctx context.Context) error {
	if !closed(g.bound) {
		return errors.New("not listening yet")
	}
	if !closed(g.deps.Trust.Ready()) {
		return errors.New("waiting for the keys that verify access tokens")
	}
	if !closed(g.table.ready()) {
		return errors.New("waiting for the sessions' table")
	}
	if g.tickets.ledger.Load() == nil || g.once.ledger.Load() == nil {
		return errors.New("waiting for the gateway's ledgers")
	}
	if err := g.deps.Bus.Ready(ctx); err != nil {
		return fmt.Errorf("the bus: %w", err)
	}
	return g.met(ctx)
}

// met returns nil once the services that answer for the gateway have been seen to answer. Afterwards it can do without either for
// a while; before, the first caller would be turned away by a gateway that has said it is ready.
func (g *Gateway) met(ctx context.Context) error {
	if g.seen.Load() {
		return nil
	}
	if _, err := rpc.Call(ctx, g.rpc, api.JWKS, api.None{}); api.CodeOf(err) == api.CodeUnavailable {
		return errors.New("waiting for the auth service")
	}
	// It is refused for want of a token, which is an answer too.
	if _, err := rpc.Call(ctx, g.rpc, api.ListProfiles, api.List{}); api.CodeOf(err) == api.CodeUnavailable {
		return errors.New("waiting for the sessions service")
	}
	g.seen.Store(true)
	return nil
}

// follow is Hub.Follow, but no more than maxReads wait for their first events at once. A client that then reads slowly holds
// no place.
func (g *Gateway) follow(ctx context.Context, key bus.Key, after uint64, f func(*bus.HubEvent) error, atHead func()) error {
	select {
	case g.reads <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	held := true
	release := func() { // by this goroutine only
		if held {
			held = false
			<-g.reads
		}
	}
	defer release()
	return g.hub.Follow(ctx, key.Tenant, key.ID, after, func(ev *bus.HubEvent) error {
		release()
		return f(ev)
	}, func() {
		release()
		if atHead != nil {
			atHead()
		}
	})
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Why streams end, as their clients are told.
var (
	errGone     = api.Errorf(api.CodeNotFound, "the session is gone")
	errStopping = api.Errorf(api.CodeUnavailable, "the gateway is stopping; connect again")
	errRevoked  = api.Errorf(api.CodeUnauthenticated, "the credential is no longer valid")
	errNoAccess = api.Errorf(api.CodeNotFound, "no such session")
)
