package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

const (
	warmRate  = 75 // starts a second
	warmFor   = 10 * time.Second
	warmPools = 2 // profiles, each with a pool of warmSize
	warmSize  = 400
	mostFor   = 10 * time.Second // how long as many as go are started
)

func warmProfile(i int) string { return fmt.Sprintf("warm%d", i%warmPools) }

// benchWarm measures sessions with a pool.
func benchWarm(ctx context.Context, p *place, r *report) error {
	for i := range warmPools {
		profile := api.Profile{Name: warmProfile(i), Agent: api.Agent{Kind: "demo"}, Pool: &api.Pool{Size: warmSize}}
		if _, err := rpc.Call(p.admin, p.client, api.CreateProfile, profile); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := p.full(ctx); err != nil {
		return err
	}
	r.add(figure{name: "kube: an empty pool is filled", ours: perSecond(warmPools * warmSize / time.Since(began).Seconds()), reference: fmt.Sprintf("%d pods", warmPools*warmSize)})
	first, err := p.session(warmProfile(0))
	if err != nil {
		return err
	}
	if err := p.copyPod(ctx, first.ID); err != nil {
		return err
	}
	if err := p.full(ctx); err != nil {
		return err
	}
	before, err := p.stats(ctx)
	if err != nil {
		return err
	}
	recorded := p.record(ctx, "warm", 10)
	idle := p.cpu()
	ls, ids, err := p.pace(ctx, warmRate, warmFor)
	if err != nil {
		return err
	}
	recorded()
	tell("a warm start", idle, p.cpu(), len(ids))
	p50, p99 := median(ls), percentile(ls, 99)
	told := fmt.Sprintf("%d starts, slowest %s", len(ls), ms(slices.Max(ls)))
	r.add(figure{name: "kube: warm starts at 75/s for 10 s, p50", ours: ms(p50), reference: told, goal: "≤ 300 ms", held: p50 <= 300*time.Millisecond})
	r.add(figure{name: "kube: warm starts at 75/s for 10 s, p99", ours: ms(p99), reference: told, goal: "≤ 500 ms", held: p99 <= 500*time.Millisecond})
	if err := p.full(ctx); err != nil {
		return err
	}
	after, err := p.stats(ctx)
	if err != nil {
		return err
	}
	writes := float64(total(after.Writes)-total(before.Writes)) / float64(len(ids))
	kinds := fmt.Sprintf("%d claims, %d pods for %d", after.Writes["PATCH"]-before.Writes["PATCH"], after.Writes["POST"]-before.Writes["POST"], len(ids))
	r.add(figure{name: "kube: API writes of a warm start, refilled", ours: fmt.Sprintf("%.2f", writes), reference: kinds, goal: "≤ 2", held: writes <= 2})
	if err := p.end(ctx, append(ids, first.ID)); err != nil {
		return err
	}
	if err := p.full(ctx); err != nil {
		return err
	}
	return p.most(ctx, r)
}

// full waits until the pools are.
func (p *place) full(ctx context.Context) error {
	var last string
	err := wait(ctx, "full pools", func() bool {
		for i := range warmPools {
			st, err := rpc.Call(p.admin, p.client, api.GetPool, api.NameRef{Name: warmProfile(i)})
			if ctx.Err() == nil {
				last = fmt.Sprintf("%+v, %v", st, err)
			}
			if err != nil || st.Ready < warmSize {
				return false
			}
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("%w: %s; %w", err, last, p.nodes.err())
	}
	return nil
}

// pace starts sessions at a rate, whether those before run already or not, and returns how long each took.
func (p *place) pace(ctx context.Context, rate int, during time.Duration) (ls []time.Duration, ids []string, err error) {
	n := rate * int(during/time.Second)
	ls, ids = make([]time.Duration, n), make([]string, n)
	errs := make([]error, n)
	var all sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := range n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			all.Wait()
			return nil, nil, ctx.Err()
		}
		all.Go(func() {
			began := time.Now()
			var s api.Session
			s, errs[i] = p.session(warmProfile(i))
			ls[i], ids[i] = time.Since(began), s.ID
		})
	}
	all.Wait()
	return ls, ids, errors.Join(errors.Join(errs...), p.nodes.err())
}

// most starts as many as go from full pools that are refilled beside.
func (p *place) most(ctx context.Context, r *report) error {
	var mu sync.Mutex
	var ids []string
	var ls []time.Duration
	began := time.Now()
	var all sync.WaitGroup
	var failed error
	for w := range starters {
		all.Go(func() {
			for i := w; time.Since(began) < mostFor; i++ {
				at := time.Now()
				s, err := p.session(warmProfile(i))
				mu.Lock()
				if err != nil {
					failed = err
					mu.Unlock()
					return
				}
				ids, ls = append(ids, s.ID), append(ls, time.Since(at))
				mu.Unlock()
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	if failed != nil {
		return failed
	}
	plainBegan := time.Now()
	if err := each(len(ids)/2, starters, func(int) error { _, err := p.plain(ctx, p.kube); return err }); err != nil {
		return err
	}
	theirs := float64(len(ids)/2) / time.Since(plainBegan).Seconds()
	rate := float64(len(ids)) / took.Seconds()
	r.add(figure{
		name: fmt.Sprintf("kube: warm starts, %d at once", starters), ours: perSecond(rate), reference: "client-go loop, pods " + perSecond(theirs), ratio: rate / theirs,
		goal: "≥ 0.8×", held: rate >= 0.8*theirs,
	})
	r.add(figure{name: fmt.Sprintf("kube: of these, p50 of %d", len(ls)), ours: ms(median(ls)), reference: "p99 " + ms(percentile(ls, 99))})
	return p.nodes.err()
}
