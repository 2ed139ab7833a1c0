package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// asynqPeer is Asynq on Redis with its defaults. What is done is not kept, as Asynq does unless told otherwise.
type asynqPeer struct {
	opt    asynq.RedisClientOpt
	client *asynq.Client
	redis  *redis.Client
}

const asynqConnections = 300

type asynqArgs struct {
	Prompt string `json:"prompt"`
	At     int64  `json:"at,omitempty"` // when it was asked for, to measure latency
}

func startAsynq(ctx context.Context) (peer, func(), error) {
	addr, stop, err := startRedis(ctx)
	if err != nil {
		return nil, nil, err
	}
	p := &asynqPeer{opt: asynq.RedisClientOpt{Addr: addr, PoolSize: asynqConnections}}
	p.client, p.redis = asynq.NewClient(p.opt), redis.NewClient(&redis.Options{Addr: addr})
	if err := until(ctx, "Redis", func(context.Context) error { return p.client.Ping() }); err != nil {
		stop()
		return nil, nil, err
	}
	return p, func() { _ = p.client.Close(); _ = p.redis.Close(); stop() }, nil
}

func (p *asynqPeer) add(ctx context.Context, at int64) error {
	data, err := json.Marshal(asynqArgs{Prompt: prompt, At: at})
	if err == nil {
		_, err = p.client.EnqueueContext(ctx, asynq.NewTask("task", data))
	}
	return err
}

func (p *asynqPeer) enqueue(ctx context.Context, clients, n int) error {
	var left atomic.Int64
	left.Store(int64(n))
	g, ctx := errgroup.WithContext(ctx)
	for range clients {
		g.Go(func() error {
			for left.Add(-1) >= 0 {
				if err := p.add(ctx, 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// fillers add tasks at once: Asynq has no batch.
const fillers = 128

func (p *asynqPeer) fill(ctx context.Context, n int) error { return p.enqueue(ctx, fillers, n) }

func (p *asynqPeer) server(workers int) *asynq.Server {
	return asynq.NewServer(p.opt, asynq.Config{Concurrency: workers, LogLevel: asynq.ErrorLevel})
}

// work waits until Redis holds no task any more: a task that is done is removed.
func (p *asynqPeer) work(ctx context.Context, workers, n int) (time.Duration, error) {
	var done atomic.Int64
	worked := make(chan struct{})
	s := p.server(workers)
	start := time.Now()
	err := s.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		if done.Add(1) == int64(n) {
			close(worked)
		}
		return nil
	}))
	if err != nil {
		return 0, err
	}
	defer s.Shutdown()
	select {
	case <-worked:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for {
		left, err := p.redis.LLen(ctx, "asynq:{default}:active").Result()
		if err != nil {
			return 0, err
		}
		if left == 0 {
			return time.Since(start), nil
		}
		time.Sleep(time.Millisecond)
	}
}

func (p *asynqPeer) latencies(ctx context.Context, n int) ([]int64, error) {
	began := make(chan int64, 1)
	s := p.server(16)
	err := s.Start(asynq.HandlerFunc(func(_ context.Context, t *asynq.Task) error {
		now := time.Now().UnixNano()
		var args asynqArgs
		if err := json.Unmarshal(t.Payload(), &args); err != nil {
			return err
		}
		began <- now - args.At
		return nil
	}))
	if err != nil {
		return nil, err
	}
	defer s.Shutdown()
	return inTurn(ctx, n, began, func(at int64) error { return p.add(ctx, at) })
}

func (p *asynqPeer) memory(ctx context.Context) (int64, error) {
	info, err := p.redis.Info(ctx, "memory").Result()
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(info, "\n") {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "used_memory:"); ok {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, fmt.Errorf("no used_memory in %q", info)
}

func (p *asynqPeer) clear(ctx context.Context) error { return p.redis.FlushAll(ctx).Err() }
