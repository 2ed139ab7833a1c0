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
	var ours warmth
	ids := make([]string, warmRate*int(warmFor/time.Second))
	recorded := p.record(ctx, "warm", 10)
	idle := p.cpu()
	ours.paced, err = pace(ctx, warmRate, warmFor, func(i int) error {
		s, err := p.session(warmProfile(i))
		ids[i] = s.ID
		return err
	})
	if err = errors.Join(err, p.nodes.err()); err != nil {
		return err
	}
	recorded()
	tell("a warm start", idle, p.cpu(), len(ids))
	if err := p.full(ctx); err != nil {
		return err
	}
	after, err := p.stats(ctx)
	if err != nil {
		return err
	}
	if err := p.end(ctx, append(ids, first.ID)); err != nil {
		return err
	}
	if err := p.full(ctx); err != nil {
		return err
	}
	recorded = p.record(ctx, "most", 10)
	idle = p.cpu()
	var mu sync.Mutex
	var more []string
	began = time.Now()
	ours.most, ours.rate, err = during(mostFor, func(i int) error {
		s, err := p.session(warmProfile(i))
		mu.Lock()
		defer mu.Unlock()
		more = append(more, s.ID)
		return err
	})
	if err = errors.Join(err, p.nodes.err()); err != nil {
		return err
	}
	recorded()
	tell("a warm start of as many as go", idle, p.cpu(), len(ours.most))
	if err := p.full(ctx); err != nil {
		return err
	}
	sustained := float64(len(more)) / time.Since(began).Seconds()
	if err := p.end(ctx, more); err != nil {
		return err
	}
	if err := p.full(ctx); err != nil {
		return err
	}
	_, loop, err := during(mostFor, func(int) error { _, err := p.plain(ctx, p.kube); return err })
	if err = errors.Join(err, p.endPlain(ctx)); err != nil {
		return fmt.Errorf("plain loop: %w", err)
	}
	theirs, err := p.reference(ctx)
	if err != nil {
		return fmt.Errorf("plain claims: %w", err)
	}
	addWarm(r, ours, theirs)
	r.add(figure{
		name: "kube: the same until the pools are full again", ours: perSecond(sustained), reference: "client-go loop, pods " + perSecond(loop), ratio: sustained / loop,
		goal: "≥ 0.8×", held: sustained >= 0.8*loop,
	})
	writes := float64(total(after.Writes)-total(before.Writes)) / float64(len(ids))
	kinds := fmt.Sprintf("%d claims, %d pods for %d", after.Writes["PATCH"]-before.Writes["PATCH"], after.Writes["POST"]-before.Writes["POST"], len(ids))
	r.add(figure{name: "kube: API writes of a warm start, refilled", ours: fmt.Sprintf("%.2f", writes), reference: kinds, goal: "≤ 2", held: writes <= 2})
	return p.nodes.err()
}

// addWarm reports sessions beside plain claims. The goals at 75/s are those of agent-sandbox's gate for its claims, from creation until ready, which it holds on
// a cluster of machines; a session at that point runs in its pod, has its credential and is in the ledger.
func addWarm(r *report, ours, theirs warmth) {
	for _, c := range []struct {
		p     float64
		bound time.Duration
	}{{50, 300 * time.Millisecond}, {99, 500 * time.Millisecond}} {
		mine, plain := percentile(ours.paced, c.p), percentile(theirs.paced, c.p)
		r.add(figure{
			name: fmt.Sprintf("kube: warm starts at %d/s for %s, p%.0f", warmRate, warmFor, c.p), ours: ms(mine), reference: "plain claims " + ms(plain), ratio: float64(mine) / float64(plain),
			goal: fmt.Sprintf("≤ %d ms", c.bound/time.Millisecond), held: mine <= c.bound,
		})
	}
	r.add(figure{name: "kube: the slowest of these", ours: ms(slices.Max(ours.paced)), reference: "plain claims " + ms(slices.Max(theirs.paced))})
	r.add(figure{
		name: fmt.Sprintf("kube: warm starts, %d at once, refilled", starters), ours: perSecond(ours.rate), reference: "plain claims " + perSecond(theirs.rate), ratio: ours.rate / theirs.rate,
	})
	r.add(figure{
		name: "kube: of these, p50", ours: ms(median(ours.most)), reference: "plain claims " + ms(median(theirs.most)), ratio: float64(median(ours.most)) / float64(median(theirs.most)),
	})
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

// pace calls start at a rate, whether those before have returned or not, and returns how long each took.
func pace(ctx context.Context, rate int, d time.Duration, start func(i int) error) ([]time.Duration, error) {
	n := rate * int(d/time.Second)
	took, errs := make([]time.Duration, n), make([]error, n)
	var all sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := range n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			all.Wait()
			return nil, ctx.Err()
		}
		all.Go(func() {
			began := time.Now()
			errs[i] = start(i)
			took[i] = time.Since(began)
		})
	}
	all.Wait()
	return took, errors.Join(errs...)
}

// warmth is how fast ready pods were had, at the pace of the gate and as fast as it went.
type warmth struct {
	paced, most []time.Duration
	rate        float64
}

// reference measures claims as sessions were measured: as many ready pods, the same pace, then as many as go while those that were taken are replaced. What it makes stays
// until the cluster ends.
func (p *place) reference(ctx context.Context) (w warmth, err error) {
	c, err := startClaims(ctx, p, warmPools*warmSize)
	if err != nil {
		return w, err
	}
	defer c.stop()
	idle := p.cpu()
	if w.paced, err = pace(ctx, warmRate, warmFor, func(int) error { return c.claim(ctx, false) }); err != nil {
		return w, err
	}
	tell("a plain claim", idle, p.cpu(), len(w.paced))
	if err := each(warmPools*warmSize-len(c.free), starters, func(int) error { return c.make(ctx) }); err != nil {
		return w, err
	}
	if w.most, w.rate, err = during(mostFor, func(int) error { return c.claim(ctx, true) }); err != nil {
		return w, err
	}
	return w, c.err()
}
