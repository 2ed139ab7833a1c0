package main

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

const (
	rawVerb    = "raw"
	rawRequest = 450 // bytes of an enqueue's request with its token,
	rawChange  = 420 // of the change in the ledger, and of the answer
	rawTimeout = 10 * time.Second
)

// rawYard is a bus of its own on which only the messages of an enqueue go, with nothing in them: a request, a conditional write, the delivery of what
// was written to who follows the ledger, and an answer. It is what the raw bus allows, and so the bound of anything that keeps tasks on it.
type rawYard struct {
	*taskYard
	asks, keeps *nats.Conn
}

func startRawYard(ctx context.Context) (*rawYard, error) {
	y, err := startTaskYard(ctx)
	if err != nil {
		return nil, err
	}
	r := &rawYard{taskYard: y}
	if err := r.serve(ctx); err != nil {
		y.stop()
		return nil, fmt.Errorf("raw bus: %w", err)
	}
	return r, nil
}

func (r *rawYard) serve(ctx context.Context) error {
	gateway, err := r.connect("gateway")
	if err != nil {
		return err
	}
	keeper, err := r.connect("scheduler")
	if err != nil {
		return err
	}
	r.asks, r.keeps = gateway.NATS(), keeper.NATS()
	if _, err := bus.OpenLedger[api.TaskRecord](ctx, keeper, bus.LedgerConfig{Noun: "tasks"}); err != nil {
		return err
	}
	js, err := jetstream.New(r.keeps)
	if err != nil {
		return err
	}
	follower, err := js.CreatePushConsumer(ctx, "TASKS", jetstream.ConsumerConfig{
		Name: rawVerb, DeliverSubject: r.keeps.NewInbox(), FilterSubject: api.LedgerPrefix + "tasks.*.*", MaxDeliver: 1,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, FlowControl: true, IdleHeartbeat: time.Second,
	})
	if err != nil {
		return err
	}
	if _, err := follower.Consume(func(jetstream.Msg) {}); err != nil { // it ends with its connection
		return err
	}
	answer := bytes.Repeat([]byte{'a'}, rawChange)
	if _, err := r.keeps.QueueSubscribe(api.OpPrefix+"scheduler."+rawVerb, "scheduler", func(m *nats.Msg) {
		go func() { // a request that is not answered fails its asker
			if r.keep(answer) == nil {
				_ = r.keeps.Publish(m.Reply, answer)
			}
		}()
	}); err != nil {
		return err
	}
	return r.keeps.FlushWithContext(ctx)
}

// keep writes a change of a new entity.
func (r *rawYard) keep(change []byte) error {
	m := nats.NewMsg(api.LedgerPrefix + "tasks." + api.HomeTenant + "." + api.NewID(api.KindTask))
	m.Header[jetstream.ExpectedLastSubjSeqHeader] = []string{"0"}
	m.Data = change
	_, err := r.keeps.RequestMsg(m, rawTimeout)
	return err
}

// enqueue is taskYard.enqueue with nothing in the messages.
func (r *rawYard) enqueue(clients, n int) (float64, error) {
	request := bytes.Repeat([]byte{'r'}, rawRequest)
	return fromMany(clients, n, func(int) error {
		_, err := r.asks.Request(api.OpPrefix+"scheduler."+rawVerb, request, rawTimeout)
		return err
	})
}

// fromMany has so many clients do something n times in all, each one after another, until one fails. It returns how many a second.
func fromMany(clients, n int, do func(client int) error) (float64, error) {
	var (
		left  atomic.Int64
		wg    sync.WaitGroup
		first atomic.Pointer[error]
	)
	left.Store(int64(n))
	start := time.Now()
	for c := range clients {
		wg.Go(func() {
			for left.Add(-1) >= 0 && first.Load() == nil {
				if err := do(c); err != nil {
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := first.Load(); err != nil {
		return 0, fmt.Errorf("enqueue: %w", *err)
	}
	return float64(n) / time.Since(start).Seconds(), nil
}
