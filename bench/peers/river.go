package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"golang.org/x/sync/errgroup"
)

// riverPeer is River on PostgreSQL, tuned as its own benchmark (cmd/river/riverbench) tunes it: a fetch every 2 ms at most, and every 20 ms
// though nothing was notified. New jobs are told by LISTEN/NOTIFY.
type riverPeer struct {
	pool    *pgxpool.Pool
	clients map[int]*river.Client[pgx.Tx]
}

const (
	riverFetchCooldown = 2 * time.Millisecond
	riverPoll          = 20 * time.Millisecond
	riverConnections   = 300
	riverEvents        = 1 << 20 // none may be dropped: they are counted
	riverBatch         = 5000
)

type riverArgs struct {
	Prompt string `json:"prompt"`
	At     int64  `json:"at,omitempty"` // when it was asked for, to measure latency
}

func (riverArgs) Kind() string { return "task" }

type riverWorker struct {
	river.WorkerDefaults[riverArgs]
	began func(at int64)
}

func (w *riverWorker) Work(_ context.Context, job *river.Job[riverArgs]) error {
	if w.began != nil {
		w.began(job.Args.At)
	}
	return nil
}

func startRiver(ctx context.Context) (peer, func(), error) {
	url, stop, err := startPostgres(ctx)
	if err != nil {
		return nil, nil, err
	}
	p := &riverPeer{}
	if err := p.open(ctx, url); err != nil {
		p.close()
		stop()
		return nil, nil, err
	}
	return p, func() { p.close(); stop() }, nil
}

func (p *riverPeer) open(ctx context.Context, url string) error {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return err
	}
	cfg.MaxConns = riverConnections
	if p.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return err
	}
	if err := until(ctx, "PostgreSQL", p.pool.Ping); err != nil {
		return err
	}
	m, err := rivermigrate.New(riverpgxv5.New(p.pool), nil)
	if err != nil {
		return err
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

func (p *riverPeer) close() {
	if p.pool != nil {
		p.pool.Close()
	}
}

// client returns a client; one without workers only inserts.
func (p *riverPeer) client(workers int, began func(int64)) (*river.Client[pgx.Tx], error) {
	cfg := &river.Config{Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))}
	if workers > 0 {
		known := river.NewWorkers()
		river.AddWorker(known, &riverWorker{began: began})
		cfg.Workers, cfg.Queues = known, map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}}
		cfg.FetchCooldown, cfg.FetchPollInterval = riverFetchCooldown, riverPoll
	}
	return river.NewClient(riverpgxv5.New(p.pool), cfg)
}

func (p *riverPeer) enqueue(ctx context.Context, clients, n int) error {
	c, err := p.client(0, nil)
	if err != nil {
		return err
	}
	var left atomic.Int64
	left.Store(int64(n))
	g, ctx := errgroup.WithContext(ctx)
	for range clients {
		g.Go(func() error {
			for left.Add(-1) >= 0 {
				if _, err := c.Insert(ctx, riverArgs{Prompt: prompt}, nil); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (p *riverPeer) fill(ctx context.Context, n int) error {
	c, err := p.client(0, nil)
	if err != nil {
		return err
	}
	for n > 0 {
		batch := make([]river.InsertManyParams, min(n, riverBatch))
		for i := range batch {
			batch[i].Args = riverArgs{Prompt: prompt}
		}
		if _, err := c.InsertManyFast(ctx, batch); err != nil {
			return err
		}
		n -= len(batch)
	}
	_, err = p.pool.Exec(ctx, "VACUUM ANALYZE river_job")
	return err
}

// work counts the events of completion, which come when a job is recorded as completed.
func (p *riverPeer) work(ctx context.Context, workers, n int) (time.Duration, error) {
	c, err := p.client(workers, nil)
	if err != nil {
		return 0, err
	}
	events, cancel := c.SubscribeConfig(&river.SubscribeConfig{ChanSize: riverEvents, Kinds: []river.EventKind{river.EventKindJobCompleted, river.EventKindJobFailed}})
	defer cancel()
	start := time.Now()
	if err := c.Start(ctx); err != nil {
		return 0, err
	}
	defer func() { _ = c.StopAndCancel(context.WithoutCancel(ctx)) }()
	for range n {
		select {
		case ev := <-events:
			if ev == nil || ev.Kind != river.EventKindJobCompleted {
				return 0, errors.New("a job failed")
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return time.Since(start), nil
}

func (p *riverPeer) latencies(ctx context.Context, n int) ([]int64, error) {
	began := make(chan int64, 1)
	c, err := p.client(16, func(at int64) { began <- time.Now().UnixNano() - at })
	if err != nil {
		return nil, err
	}
	if err := c.Start(ctx); err != nil {
		return nil, err
	}
	defer func() { _ = c.StopAndCancel(context.WithoutCancel(ctx)) }()
	return inTurn(ctx, n, began, func(at int64) error {
		_, err := c.Insert(ctx, riverArgs{Prompt: prompt, At: at}, nil)
		return err
	})
}

// memory is the size of the table with its indexes: PostgreSQL holds nothing else for a job that waits.
func (p *riverPeer) memory(ctx context.Context) (n int64, err error) {
	err = p.pool.QueryRow(ctx, "SELECT pg_total_relation_size('river_job')").Scan(&n)
	return n, err
}

func (p *riverPeer) clear(ctx context.Context) error {
	_, err := p.pool.Exec(ctx, "TRUNCATE river_job")
	return err
}

// inTurn adds n tasks one by one, each after the work on the one before has begun and a pause.
func inTurn(ctx context.Context, n int, began <-chan int64, add func(at int64) error) ([]int64, error) {
	took := make([]int64, 0, n)
	for len(took) < n {
		select {
		case <-time.After(latencyPause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if err := add(time.Now().UnixNano()); err != nil {
			return nil, err
		}
		select {
		case d := <-began:
			took = append(took, d)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return took, nil
}
