package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/parts"
)

// Defaults and bounds of a server.
const (
	defaultConcurrency = 256
	defaultTimeout     = 30 * time.Second
	longConcurrency    = 4096            // of HandleLong operations: they wait, so each costs a goroutine only
	unsubscribeTimeout = 5 * time.Second // for the bus to confirm that no more requests come
	subscribeRetry     = 2 * time.Second // between asking an absent bus whether it has our subscriptions
	drainGrace         = 2 * time.Second // beyond Timeout, for the answers of the last operations
	overloadRetry      = time.Second     // what a refused caller is told to wait
)

// ServerConfig says how a service answers.
type ServerConfig struct {
	Service     string
	Auth        Authenticator
	Logger      *slog.Logger
	Metrics     prometheus.Registerer // nil: none
	Concurrency int                   // operations at once; zero: 256. Above it callers get exhausted at once.
	Timeout     time.Duration         // of one operation; zero: 30 s (wait operations set their own with HandleLong)
	// Denied, if set, is told of each refusal (unauthenticated or denied), for the audit ledger. ctx carries
	// the verified caller's raw token. It must not block.
	Denied func(ctx context.Context, op api.OpInfo, p api.Principal, err error)
}

// Server answers operations. Register handlers with Handle before Run.
type Server struct {
	nc       *nats.Conn
	cfg      ServerConfig
	log      *slog.Logger
	seconds  *prometheus.HistogramVec
	handlers map[string]*handler // by verb; not written after Run began
	work     *pool
	long     *pool
	crew     parts.Crew // serves
	running  atomic.Bool
	ready    chan struct{} // closed when the bus has confirmed the subscriptions

	waiting     context.Context // of HandleLong operations: ends when Run stops
	stopWaiting context.CancelFunc
}

// NewServer returns a server without handlers.
func NewServer(c *bus.Conn, cfg ServerConfig) *Server { return newServer(c.NATS(), cfg) }

func newServer(nc *nats.Conn, cfg ServerConfig) *Server {
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = defaultConcurrency
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	s := &Server{
		nc: nc, cfg: cfg, log: cfg.Logger,
		seconds:  opSeconds(cfg.Metrics),
		handlers: map[string]*handler{},
		work:     newPool(cfg.Concurrency), long: newPool(longConcurrency),
		ready: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.waiting, s.stopWaiting = context.WithCancel(context.Background())
	return s
}

// Handle registers the handler of op. The handler finds the verified principal with api.PrincipalFrom and the raw token with token.Raw.
// For an operation with permission api.SessionScoped the principal is the session itself (ID and Name its id, Tenant
// its tenant), and with api.ServiceScoped the service ("service:" and its name, of no tenant), proven by the subject. It panics for an operation of another service, a verb that has a
// handler and a server that runs.
func Handle[Req, Resp any](s *Server, op api.Op[Req, Resp], h func(ctx context.Context, req Req) (Resp, error)) {
	s.handle(op.Info(), s.work, s.cfg.Timeout, decoding(s, op.Info(), h))
}

// HandleLong is Handle for an operation that may take up to timeout and waits rather than works: it is not counted in Concurrency (own bound: 4096).
// When the server stops, the contexts of these operations end, so that they answer with what they have.
func HandleLong[Req, Resp any](s *Server, op api.Op[Req, Resp], timeout time.Duration, h func(ctx context.Context, req Req) (Resp, error)) {
	s.handle(op.Info(), s.long, timeout, decoding(s, op.Info(), h))
}

// Ready reports nil when the bus has confirmed that requests come to this server.
func (s *Server) Ready(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return api.Errorf(api.CodeUnavailable, "%s does not answer operations yet", s.cfg.Service)
	}
}

// Run answers until ctx ends, then stops taking requests and waits for those in flight. The bus may be absent when it is called.
func (s *Server) Run(ctx context.Context) error {
	if s.running.Swap(true) {
		return errors.New("rpc: server runs already")
	}
	subs, err := s.subscribe()
	if err == nil {
		s.awaitBus(ctx)
		<-ctx.Done()
	}
	return errors.Join(err, s.drain(subs)) //nolint:contextcheck // ctx has ended
}

// subscribe asks for requests: the service's operations, and each operation that a session's runner or another service may ask.
func (s *Server) subscribe() ([]*subscription, error) {
	subjects := []string{api.OpPrefix + s.cfg.Service + ".*"}
	for verb, h := range s.handlers {
		switch h.info.Permission {
		case api.SessionScoped:
			subjects = append(subjects, api.RunnerPrefix+"*.*."+verb)
		case api.ServiceScoped:
			subjects = append(subjects, api.PeerPrefix+"*."+s.cfg.Service+"."+verb)
		}
	}
	var subs []*subscription
	for _, subject := range subjects {
		sub, err := s.nc.QueueSubscribe(subject, s.cfg.Service, s.receive)
		if err != nil {
			return subs, fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		closed := make(chan struct{})
		sub.SetClosedHandler(func(string) { close(closed) })
		subs = append(subs, &subscription{sub, closed})
	}
	return subs, nil
}

type subscription struct {
	*nats.Subscription
	closed chan struct{} // when the last request was handed off
}

// awaitBus returns when the bus has seen the subscriptions or ctx ends.
func (s *Server) awaitBus(ctx context.Context) {
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, subscribeRetry)
		if s.nc.FlushWithContext(try) == nil {
			close(s.ready)
			cancel()
			return
		}
		select { // a flush may fail at once while the bus is away
		case <-try.Done():
		case <-ctx.Done():
		}
		cancel()
	}
}

// drain stops requests, waits for the operations in flight and for their answers to leave. Without a bus no request can come and no answer can go,
// so it only waits for the operations.
func (s *Server) drain(subs []*subscription) error {
	stop, cancel := context.WithTimeout(context.Background(), unsubscribeTimeout)
	defer cancel()
	for _, sub := range subs {
		_ = sub.Drain() // its error says that the connection is gone
	}
	for _, sub := range subs {
		if !s.nc.IsConnected() {
			break
		}
		select {
		case <-sub.closed:
		case <-stop.Done():
		}
	}
	s.stopWaiting()
	wait, cancel := context.WithTimeout(context.Background(), s.cfg.Timeout+drainGrace)
	defer cancel()
	if left := s.work.drain(wait) + s.long.drain(wait); left > 0 {
		return fmt.Errorf("%d operations did not end in time", left)
	}
	s.crew.Wait()
	if !s.nc.IsConnected() {
		return nil
	}
	flush, cancel := context.WithTimeout(context.Background(), drainGrace)
	defer cancel()
	if err := s.nc.FlushWithContext(flush); err != nil && s.nc.IsConnected() {
		return fmt.Errorf("flush the last answers: %w", err)
	}
	return nil
}

// pool bounds operations twice: admit is how many have a goroutine (and may prove who they are), slots how many of those
// work. What is above either bound is refused at once; nothing queues.
type pool struct {
	admit chan struct{}
	slots chan struct{}
}

// admissionSpare is how many more operations than slots may have a goroutine: those that authenticate.
const admissionSpare = 64

func newPool(n int) *pool {
	return &pool{admit: make(chan struct{}, n+n/4+admissionSpare), slots: make(chan struct{}, n)}
}

// drain takes all places, so that nothing is in flight any more, and returns how many it could not take before ctx ended.
func (p *pool) drain(ctx context.Context) int {
	for i := range cap(p.admit) {
		select {
		case p.admit <- struct{}{}:
		case <-ctx.Done():
			return cap(p.admit) - i
		}
	}
	return 0
}

func take(places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	default:
		return false
	}
}
