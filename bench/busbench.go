package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/parts"
)

const (
	busFor     = 1500 * time.Millisecond // of each measurement
	busWorkers = 64
)

// logEvents is how many events one measurement of the log appends.
const logEvents = 50_000

// benchBus starts an embedded server on a fresh directory.
func benchBus(ctx context.Context) (*bus.Server, *bus.Keyring, func(), error) {
	dir, err := os.MkdirTemp("", "agentyard-bench-")
	if err != nil {
		return nil, nil, nil, err
	}
	keys, err := bus.OpenKeyring(dir + "/keys")
	if err != nil {
		return nil, nil, nil, err
	}
	srv, err := bus.StartServer(ctx, bus.ServerConfig{Dir: dir + "/bus", Listen: "127.0.0.1:0", Keyring: keys})
	if err != nil {
		return nil, nil, nil, err
	}
	return srv, keys, func() {
		srv.Close()
		_ = os.RemoveAll(dir)
	}, nil
}

// connect connects over TCP with freshly minted credentials.
func connect(srv *bus.Server, mint func() ([]byte, error)) (*bus.Conn, error) {
	creds, err := mint()
	if err != nil {
		return nil, err
	}
	return bus.Connect(bus.Config{URL: srv.URL(), Credentials: creds, Name: "bench"})
}

// benchLedger compares conditional updates with plain acknowledged publishes of the
// same size, both by busWorkers at once, each waiting for its answer.
func benchLedger(ctx context.Context, r *report) error {
	server, keyring, stop, err := benchBus(ctx)
	if err != nil {
		return err
	}
	defer stop()
	conn, err := connect(server, func() ([]byte, error) { return keyring.ServiceCredentials("sessions") })
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	ledger, err := bus.OpenLedger[api.SessionRecord](ctx, conn, bus.LedgerConfig{Noun: "sessions"})
	if err != nil {
		return err
	}
	js, err := jetstream.New(conn.NATS())
	if err != nil {
		return err
	}
	// As in a service: the view spares the read before each write.
	view := ledger.View(bus.ViewConfig[api.SessionRecord]{})
	group, ctx := parts.New(ctx)
	defer group.Stop()
	group.Go("follow sessions", view.Run)
	<-view.Ready()
	state := api.SessionRecord{Session: api.Session{Title: "a session like any other", State: api.StateRunning, Owner: "u1"}}
	keys := make([]bus.Key, busWorkers)
	for i := range keys {
		keys[i] = bus.Key{Tenant: "default", ID: api.NewID(api.KindSession)}
		if _, err := ledger.Create(ctx, keys[i], bus.Meta{Actor: "bench", Verb: "create"}, state); err != nil {
			return err
		}
	}
	payload := make([]byte, 500)
	var ours, raw []float64
	for range rounds {
		v, err := parallel(ctx, busFor, func(ctx context.Context, worker int) error {
			_, err := ledger.Update(ctx, keys[worker], bus.Meta{Actor: "bench", Verb: "update"}, func(s api.SessionRecord) (api.SessionRecord, error) {
				s.Restarts++
				return s, nil
			})
			return err
		})
		if err != nil {
			return err
		}
		ours = append(ours, v)
		v, err = parallel(ctx, busFor, func(ctx context.Context, worker int) error {
			_, err := js.Publish(ctx, fmt.Sprintf("yard.v1.sessions.raw.w%d", worker), payload)
			return err
		})
		if err != nil {
			return err
		}
		raw = append(raw, v)
	}
	ratio := medianFloat(ours) / medianFloat(raw)
	r.add(figure{"ledger: updates, 64 at once", perSecond(medianFloat(ours)), "JetStream publish " + perSecond(medianFloat(raw)), ratio, "≥ 0.70×", ratio >= 0.7})
	return nil
}

// benchLog compares one session's appender with asynchronous raw publishes of the same
// events, both with as much in flight as they like.
func benchLog(ctx context.Context, r *report) error {
	server, keys, stop, err := benchBus(ctx)
	if err != nil {
		return err
	}
	defer stop()
	owner, err := connect(server, func() ([]byte, error) { return keys.ServiceCredentials("sessions") })
	if err != nil {
		return err
	}
	defer func() { _ = owner.Close(ctx) }()
	log, err := bus.OpenLog(ctx, owner, bus.LogConfig{})
	if err != nil {
		return err
	}
	js, err := jetstream.New(owner.NATS(), jetstream.WithPublishAsyncMaxPending(1000))
	if err != nil {
		return err
	}
	ev := api.Event{Type: api.EventAgentMessageChunk, MessageID: api.NewID(api.KindMessage), Delta: "a chunk of some words"}
	payload, err := json.Marshal(ev)
	if err != nil {
		return err
	}
	var ours, raw []float64
	for range rounds {
		session := api.NewID(api.KindSession)
		runner, err := connect(server, func() ([]byte, error) { return keys.SessionIssuer().Credentials("default", session) })
		if err != nil {
			return err
		}
		v, err := appendAll(ctx, log, runner, session, ev)
		_ = runner.Close(ctx)
		if err != nil {
			return err
		}
		ours = append(ours, v)
		subject := api.LogSubject("default", api.NewID(api.KindSession), api.WriterUser)
		start := time.Now()
		for range logEvents {
			if _, err := js.PublishAsync(subject, payload, jetstream.WithStallWait(10*time.Second)); err != nil {
				return err
			}
		}
		select {
		case <-js.PublishAsyncComplete():
		case <-ctx.Done():
			return ctx.Err()
		}
		raw = append(raw, logEvents/time.Since(start).Seconds())
	}
	ratio := medianFloat(ours) / medianFloat(raw)
	r.add(figure{"log: appends by one runner", perSecond(medianFloat(ours)), "async publish " + perSecond(medianFloat(raw)), ratio, "≥ 0.70×", ratio >= 0.7})
	return nil
}

// appendAll appends logEvents events through a session's own credential and returns how
// many a second were kept.
func appendAll(ctx context.Context, log *bus.Log, runner *bus.Conn, session string, ev api.Event) (float64, error) {
	a := bus.NewAppender(runner, "default", session, 0, func(context.Context) (uint64, string, error) {
		return 0, "", errors.New("the position is not needed while the bus is up")
	})
	group, ctx := parts.New(ctx)
	defer group.Stop()
	group.Go("append", a.Run)
	start := time.Now()
	for range logEvents {
		if err := a.Append(ctx, ev); err != nil {
			return 0, err
		}
	}
	if err := a.Flush(ctx); err != nil {
		return 0, err
	}
	v := logEvents / time.Since(start).Seconds()
	group.Stop()
	if _, err := log.Last(context.WithoutCancel(ctx), "default", session, api.WriterAgent); err != nil {
		return 0, err
	}
	return v, nil
}

// parallel runs f over and over in busWorkers goroutines for d and returns how often a
// second it returned.
func parallel(ctx context.Context, d time.Duration, f func(ctx context.Context, worker int) error) (float64, error) {
	var (
		n     atomic.Int64
		wg    sync.WaitGroup
		first atomic.Pointer[error]
	)
	start := time.Now()
	for w := range busWorkers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for time.Since(start) < d {
				if err := f(ctx, w); err != nil {
					first.CompareAndSwap(nil, &err)
					return
				}
				n.Add(1)
			}
		}()
	}
	wg.Wait()
	if err := first.Load(); err != nil {
		return 0, *err
	}
	return float64(n.Load()) / time.Since(start).Seconds(), nil
}
