// Package bus is agentyard's use of NATS JetStream: connections with scoped
// credentials, an embedded server, and the three ways to keep something: [Ledger] for
// state, [Log] for a session's events, [Lease] for who may act alone.
//
// It is the only home of nats.go and nats-server together with libs/rpc.
package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"agentyard.dev/libs/api"
)

// Config says how to reach the bus.
type Config struct {
	URL         string  // "nats://host:4222", comma-separated for a cluster; ignored with InProcess
	InProcess   *Server // connect without a socket
	Credentials []byte  // a NATS .creds file's content: user JWT and seed
	Name        string  // of the connection, as seen by operators: the service's name
	Logger      *slog.Logger
	// Replicas is the least number of copies of a stream that this connection makes, on a bus of several servers; zero: 1.
	Replicas int
	// Crowd says that thousands of processes connect like this one. When the bus was away they come back at random over some twice as long, at most
	// 20 s, and are more patient: all at once would be too late, and try again for ever.
	Crowd bool
	// Brief says that the connection asks one thing at a time, few in all, and is closed: each answer has a subscription of its own, which costs the bus less than the
	// one for all that are to come, and Close waits for nothing.
	Brief bool
}

// Conn is one connection to the bus. It reconnects for ever; while it is away calls fail
// with unavailable when their deadline passes.
type Conn struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	log    *slog.Logger
	scoped bool          // a session's: no JetStream API
	closed chan struct{} // when nc is

	replicas int // of each stream at least
	crowd    bool
	brief    bool
	attempt  time.Duration // how long one try of something waits for its answer

	partCheck time.Duration // partCheck, but in tests
	logCheck  time.Duration // likewise

	mu        sync.Mutex
	drops     map[*nats.Subscription]func() // told of lost messages
	reconnect map[chan struct{}]struct{}    // told after each reconnect

	logReached atomic.Uint64 // a sequence that the log's stream has had since the bus was last away
}

// OpTimeout bounds a bus call whose context has no deadline of its own.
const OpTimeout = 5 * time.Second

const (
	dialTimeout   = 2 * time.Second
	reconnectWait = 50 * time.Millisecond // plus jitter: a local server restarts fast
	reconnectJit  = 100 * time.Millisecond
	pingEvery     = 5 * time.Second // two missed: a dead peer is noticed within 15 s
	pingsOut      = 2
	// reconnectBuffer holds what is published while the connection is away. Small: callers
	// wait for answers anyway.
	reconnectBuffer = 1 << 20
	drainTimeout    = 10 * time.Second

	// Of a crowd: the longest pause before the first try, doubled with each, and at most; and the time in which the bus must have let one in.
	crowdFirst   = 200 * time.Millisecond
	crowdMost    = 20 * time.Second
	crowdTimeout = 30 * time.Second
	// crowdPing is pingEvery of one of a crowd: a dead peer is noticed within 45 s, for a third of what the bus has to answer.
	crowdPing = 15 * time.Second
	// crowdAttempt is attemptTimeout of one of a crowd: where many ask at one moment, to ask again makes the queue longer.
	crowdAttempt = OpTimeout
)

// crowdDelay is how long one of a crowd waits before it tries to connect, or to read, for the nth time in a row (1, 2, …).
func crowdDelay(n int) time.Duration {
	return rand.N(min(crowdFirst<<min(max(n-1, 0), 10), crowdMost)) //nolint:gosec // jitter
}

// Connect returns a connection at once, whether or not the bus can be reached yet
// (services start in any order); Ready tells. It fails only for a bad configuration.
func Connect(cfg Config) (*Conn, error) {
	creds, err := parseCredential(cfg.Credentials)
	if err != nil {
		return nil, fmt.Errorf("connect to bus: %w", err)
	}
	if cfg.InProcess == nil && cfg.URL == "" {
		return nil, api.Invalid("/url", "is required")
	}
	c := &Conn{
		log: cfg.Logger, scoped: creds.scoped, closed: make(chan struct{}), replicas: max(cfg.Replicas, 1), brief: cfg.Brief, attempt: attemptTimeout, partCheck: partCheck, logCheck: logCheck,
		drops: map[*nats.Subscription]func(){}, reconnect: map[chan struct{}]struct{}{},
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Crowd {
		c.crowd, c.attempt = true, crowdAttempt
	}
	opts := []nats.Option{
		nats.Name(cfg.Name),
		// A direct get's answer has at most 1,000 messages; the default of 65,536 costs 512 KiB for each.
		nats.SyncQueueLen(2048),
		creds.option(),
		nats.CustomInboxPrefix(creds.inbox),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJit, reconnectJit),
		nats.IgnoreAuthErrorAbort(),
		nats.Timeout(dialTimeout),
		nats.SetCustomDialer(&dialer{timeout: dialTimeout}),
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(pingsOut),
		nats.ReconnectBufSize(reconnectBuffer),
		nats.DrainTimeout(drainTimeout),
		nats.PermissionErrOnSubscribe(true),
		nats.ErrorHandler(c.asyncError),
		nats.ReconnectHandler(func(*nats.Conn) {
			c.log.Info("bus connected again")
			c.reconnected()
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				c.log.Warn("bus connection lost", "err", err)
			}
		}),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
	}
	if cfg.Crowd {
		opts = append(opts, nats.CustomReconnectDelay(crowdDelay), nats.Timeout(crowdTimeout), nats.SetCustomDialer(&dialer{timeout: crowdTimeout}), nats.PingInterval(crowdPing))
	}
	if cfg.Brief {
		opts = append(opts, nats.UseOldRequestStyle())
	}
	url := cfg.URL
	if cfg.InProcess != nil {
		url = "nats://in-process"
		opts = append(opts, nats.InProcessServer(cfg.InProcess.ns))
	}
	if c.nc, err = nats.Connect(url, opts...); err != nil {
		return nil, fmt.Errorf("connect to bus: %w", err)
	}
	if c.js, err = jetstream.New(c.nc); err != nil {
		c.nc.Close()
		return nil, fmt.Errorf("connect to bus: %w", err)
	}
	return c, nil
}

func (c *Conn) asyncError(_ *nats.Conn, sub *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrSlowConsumer) && sub != nil {
		c.mu.Lock()
		drop := c.drops[sub]
		c.mu.Unlock()
		if drop != nil {
			drop()
			return
		}
	}
	c.log.Error("bus connection", "err", err)
}

func (c *Conn) reconnected() {
	c.logReached.Store(0)
	c.mu.Lock()
	drops := slices.Collect(maps.Values(c.drops))
	for ch := range c.reconnect {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
	c.mu.Unlock()
	for _, drop := range drops {
		drop()
	}
}

// onReconnect returns a channel that receives after each reconnect (several may count as
// one), and what ends it.
func (c *Conn) onReconnect() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	c.mu.Lock()
	c.reconnect[ch] = struct{}{}
	c.mu.Unlock()
	return ch, func() {
		c.mu.Lock()
		delete(c.reconnect, ch)
		c.mu.Unlock()
	}
}

// Ready reports nil when the connection is up and JetStream answers within ctx. A session's
// credential may not ask JetStream; for it, a round trip to the server counts.
func (c *Conn) Ready(ctx context.Context) error {
	ctx, cancel := opContext(ctx)
	defer cancel()
	if !c.nc.IsConnected() {
		return api.Errorf(api.CodeUnavailable, "the bus is not connected")
	}
	if c.scoped {
		if err := c.nc.FlushWithContext(ctx); err != nil {
			return api.Errorf(api.CodeUnavailable, "the bus does not answer: %w", err)
		}
		return nil
	}
	if _, err := c.js.AccountInfo(ctx); err != nil {
		return api.Errorf(api.CodeUnavailable, "the bus does not answer: %w", err)
	}
	return nil
}

// Close drains the connection: handlers in flight finish, pending publishes are flushed. A brief one is closed at once.
func (c *Conn) Close(ctx context.Context) error {
	if c.brief {
		c.nc.Close()
	} else if err := c.nc.Drain(); err != nil {
		c.nc.Close() // not connected: there is nobody to drain to
	}
	select {
	case <-c.closed:
		return nil
	case <-ctx.Done():
		c.nc.Close()
		return api.Errorf(api.CodeUnavailable, "close bus connection: %w", ctx.Err())
	}
}

// NATS returns the underlying connection, for libs/rpc only.
func (c *Conn) NATS() *nats.Conn { return c.nc }

// Publish sends data on a core subject (no persistence).
func (c *Conn) Publish(subject string, data []byte) error {
	if err := c.nc.Publish(subject, data); err != nil {
		return busError("publish", err)
	}
	return nil
}

const (
	// A subscription's backlog beyond which messages are dropped and its owner told.
	subPendingMessages = 8192
	subPendingBytes    = 16 << 20
)

// Subscribe calls f for each core message on subject, one at a time, until ctx ends; f must
// not block. When the subscription overflows its bound, messages are dropped and onDrop is
// called (it may be nil); it is also called after a reconnect, because messages may have been
// missed. Subscribe returns when the server has confirmed the subscription, so that nothing
// published after the return is missed.
func (c *Conn) Subscribe(ctx context.Context, subject string, f func(subject string, header Header, data []byte), onDrop func()) error {
	sub, err := c.nc.Subscribe(subject, func(m *nats.Msg) {
		if ctx.Err() == nil {
			f(m.Subject, m.Header, m.Data)
		}
	})
	if err != nil {
		return busError("subscribe", err)
	}
	if err := sub.SetPendingLimits(subPendingMessages, subPendingBytes); err != nil {
		_ = sub.Unsubscribe()
		return busError("subscribe", err)
	}
	if onDrop != nil {
		c.mu.Lock()
		c.drops[sub] = onDrop
		c.mu.Unlock()
	}
	end := func() {
		_ = sub.Unsubscribe() // fails only when the connection is closed
		c.mu.Lock()
		delete(c.drops, sub)
		c.mu.Unlock()
	}
	if err := c.confirm(ctx); err != nil {
		end()
		return busError("subscribe", err)
	}
	context.AfterFunc(ctx, end)
	return nil
}

// subscribeInto is Subscribe into a channel, whose reader has the messages of several subscriptions in the order in which the bus sent them. A message for
// which it has no room is dropped. It does not wait for the bus; the caller ends it.
func (c *Conn) subscribeInto(subject string, into chan *nats.Msg, onDrop func()) (end func(), err error) {
	sub, err := c.nc.ChanSubscribe(subject, into)
	if err != nil {
		return nil, busError("subscribe", err)
	}
	c.mu.Lock()
	c.drops[sub] = onDrop
	c.mu.Unlock()
	return func() {
		_ = sub.Unsubscribe() // fails only when the connection is closed
		c.mu.Lock()
		delete(c.drops, sub)
		c.mu.Unlock()
	}, nil
}

// Header holds a message's headers.
type Header = nats.Header

// confirm returns when the server has processed all that was sent before.
func (c *Conn) confirm(ctx context.Context) error {
	ctx, cancel := opContext(ctx)
	defer cancel()
	return c.nc.FlushWithContext(ctx)
}

// opContext gives ctx the deadline of OpTimeout unless it has one.
func opContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, OpTimeout)
}

// busError wraps an error of the connection: all of them mean "try again", but a message that
// is too large.
func busError(doing string, err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		return err
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return api.Errorf(api.CodeInvalid, "%s: larger than the bus takes (%d bytes): %w", doing, MaxPayload, err)
	}
	return api.Errorf(api.CodeUnavailable, "%s: %w", doing, err)
}

// closeTimeout bounds the last flush of a process that stops.
const closeTimeout = 5 * time.Second

// Run is the connection as an actor of its process: it waits for ctx's end and closes. Added first, it is the last
// to stop.
func (c *Conn) Run(ctx context.Context) error {
	<-ctx.Done()
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return c.Close(flush)
}
