package main

import (
	"context"
	"fmt"
	"time"
)

const (
	coldRounds  = 3
	coldBatch   = 120 // starts of each kind a round
	coldSingles = 25  // one after the other
)

// benchCold measures sessions without a pool: how many start, what one costs the API server, and what is added to its pod's own start.
func benchCold(ctx context.Context, p *place, r *report) error {
	if _, err := p.plain(ctx, p.kube); err != nil { // once, so that connections are there
		return err
	}
	warmUp, err := p.session("")
	if err != nil {
		return err
	}
	if err := p.copyPod(ctx, warmUp.ID); err != nil {
		return err
	}
	if err := p.end(ctx, []string{warmUp.ID}); err != nil {
		return err
	}
	var pods, starts []time.Duration
	var ids []string
	for range coldSingles {
		took, err := p.plain(ctx, p.kube)
		if err != nil {
			return err
		}
		pods = append(pods, took)
		began := time.Now()
		s, err := p.session("")
		if err != nil {
			return err
		}
		starts, ids = append(starts, time.Since(began)), append(ids, s.ID)
	}
	if err := p.end(ctx, ids); err != nil {
		return err
	}
	over := median(starts) - median(pods)
	r.add(figure{
		name: "kube: cold start beyond its pod's, p50", ours: ms(over), reference: "plain pod " + ms(median(pods)), goal: "≤ 100 ms", held: over <= 100*time.Millisecond,
	})

	before, err := p.stats(ctx)
	if err != nil {
		return err
	}
	recorded := p.record(ctx, "cold", 15)
	var ours, plain []float64
	for range coldRounds {
		if err := p.endPlain(ctx); err != nil {
			return err
		}
		idle := p.cpu()
		began := time.Now()
		if err := each(coldBatch, starters, func(int) error { _, err := p.plain(ctx, p.kube); return err }); err != nil {
			return fmt.Errorf("plain loop: %w", err)
		}
		plain = append(plain, coldBatch/time.Since(began).Seconds())
		tell("a plain pod", idle, p.cpu(), coldBatch)
		if err := p.endPlain(ctx); err != nil {
			return err
		}
		ids := make([]string, coldBatch)
		idle = p.cpu()
		began = time.Now()
		if err := each(coldBatch, starters, func(i int) error { s, err := p.session(""); ids[i] = s.ID; return err }); err != nil {
			return fmt.Errorf("cold starts: %w", err)
		}
		ours = append(ours, coldBatch/time.Since(began).Seconds())
		tell("a cold start", idle, p.cpu(), coldBatch)
		if err := p.end(ctx, ids); err != nil {
			return err
		}
	}
	recorded()
	after, err := p.stats(ctx)
	if err != nil {
		return err
	}
	mine, theirs := middle(ours), middle(plain)
	r.add(figure{
		name: fmt.Sprintf("kube: cold starts, %d at once", starters), ours: perSecond(mine), reference: "client-go loop, pods " + perSecond(theirs), ratio: mine / theirs,
		goal: "≥ 0.8×", held: mine >= 0.8*theirs,
	})
	writes := float64(total(after.Writes)-total(before.Writes)) / (coldRounds * coldBatch)
	r.add(figure{
		name: "kube: API writes of a cold session, its end too", ours: fmt.Sprintf("%.2f", writes), reference: fmt.Sprintf("reads %.2f", float64(after.Reads-before.Reads)/(coldRounds*coldBatch)),
		goal: "≤ 3", held: writes <= 3,
	})
	return p.nodes.err()
}

func total(writes map[string]int) (n int) {
	for _, v := range writes {
		n += v
	}
	return n
}
