package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

func init() {
	benchmarks = append(benchmarks, benchmark{"traffic", "traffic control of one node (needs root): trees, rate changes, counters", benchTraffic})
}

// The sizes of the traffic benchmark.
const (
	trafficSessions = 250
	trafficChanges  = 500
	trafficTrees    = 100
	trafficPods     = 1000
)

// trafficPlan is a session's plan: three classes each way, told apart by address, port and DSCP.
func trafficPlan(rate tc.BitsPerSecond, upload bool) *tc.Plan {
	leaf := func(minor tc.Minor, name string, rate, ceiling tc.BitsPerSecond) tc.Leaf {
		return tc.Leaf{
			Minor: minor, Class: name, Rate: rate, Ceiling: ceiling, Burst: 3028 + tc.Bytes(rate/2000), CeilingBurst: 3028 + tc.Bytes(ceiling/2000),
			Priority: 3, Quantum: 1514, Queue: tc.Queue{Kind: tc.BFIFO, Limit: 100_000},
		}
	}
	tcp, ef := uint8(6), uint8(46)
	tree := func(place tc.Place) *tc.Tree {
		return &tc.Tree{
			Place: place, Rate: rate, Burst: 3028 + tc.Bytes(rate/2000), Default: tc.DefaultMinor, MTU: 1514,
			Leaves: []tc.Leaf{
				leaf(tc.DefaultMinor, "rest", rate/10, rate), leaf(0x200, "model", rate/2, rate), leaf(0x300, "talk", rate/5, rate/2),
			},
			Filters: []tc.Filter{
				{Class: 0x200, Family: tc.IPv4, Protocol: &tcp, Src: netip.MustParsePrefix("192.0.2.0/24"), SrcPorts: tc.PortRange{First: 443, Last: 443}},
				{Class: 0x300, Family: tc.IPv4, DSCP: &ef},
			},
		}
	}
	p := &tc.Plan{Format: tc.PlanFormat, Mode: tc.Enforce, Download: tree(tc.AtHost)}
	if upload {
		p.Upload = tree(tc.AtIFB)
	}
	return p
}

// pods are n interfaces in a namespace of their own.
func pods(n int) (*kerneltest.Namespace, *kernel.Kernel, []kernel.Interface, error) {
	node, err := kerneltest.MakeNamespace()
	if err != nil {
		return nil, nil, nil, err
	}
	on := make([]kernel.Interface, n)
	for i := range on {
		if on[i], err = node.MakePair(fmt.Sprintf("v%d", i)); err != nil {
			return nil, nil, nil, err
		}
	}
	k, err := kernel.Open(node.Path())
	return node, k, on, err
}

func applyAll(ctx context.Context, k *kernel.Kernel, on []kernel.Interface, p *tc.Plan) (each []time.Duration, total time.Duration, err error) {
	began := time.Now()
	for _, at := range on {
		r, err := k.Apply(ctx, at, p)
		if err != nil {
			return nil, 0, err
		}
		each = append(each, r.Took)
	}
	return each, time.Since(began), nil
}

func benchTraffic(ctx context.Context, r *report) error {
	for _, f := range []func(context.Context, *report) error{benchCold, benchTree, benchCounters} {
		if err := f(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// benchCold puts 250 sessions in force, both ways, then audits them, then changes rates.
func benchCold(ctx context.Context, r *report) error {
	node, k, on, err := pods(trafficSessions)
	if err != nil {
		return err
	}
	defer node.Close()
	defer func() { _ = k.Close() }()
	each, total, err := applyAll(ctx, k, on, trafficPlan(50*tc.Mbit, true))
	if err != nil {
		return err
	}
	r.add(figure{
		fmt.Sprintf("traffic: %d sessions cold, both ways", trafficSessions), ms(total), "one " + ms(median(each)), 0, "≤ 1 s", total <= time.Second,
	})
	writes := k.Writes()
	each, total, err = applyAll(ctx, k, on, trafficPlan(50*tc.Mbit, true))
	if err != nil {
		return err
	}
	if k.Writes() != writes {
		return fmt.Errorf("an audit wrote %d messages", k.Writes()-writes)
	}
	r.add(figure{
		fmt.Sprintf("traffic: audit of %d sessions that are in force", trafficSessions), ms(total), "one " + ms(median(each)), 0,
		"2 % of a core, each 30 s", total <= 600*time.Millisecond,
	})
	// At rest an agent counts each second, and audits each 30 s.
	const seconds = 10
	before, err := processorTime()
	if err != nil {
		return err
	}
	for range seconds {
		if _, err := k.Count(on); err != nil {
			return err
		}
	}
	after, err := processorTime()
	if err != nil {
		return err
	}
	rest := (after-before)/seconds + total/30
	r.add(figure{
		fmt.Sprintf("traffic: processor time a second at rest, %d", trafficSessions), ms(rest), "counters, and a 30th of an audit", 0,
		"≤ 20 ms (2 %)", rest <= 20*time.Millisecond,
	})
	var changes []time.Duration
	for i := range trafficChanges {
		p := trafficPlan(50*tc.Mbit, true)
		p.Download.Leaves[2].Ceiling -= tc.BitsPerSecond(i%7+1) * 100 * tc.Kbit
		result, err := k.Apply(ctx, on[i%len(on)], p)
		if err != nil {
			return err
		}
		if len(result.Steps) != 1 {
			return fmt.Errorf("a rate took %v", result.Steps)
		}
		changes = append(changes, result.Took)
		if _, err := k.Apply(ctx, on[i%len(on)], trafficPlan(50*tc.Mbit, true)); err != nil {
			return err
		}
	}
	r.add(figure{
		fmt.Sprintf("traffic: one rate change beside %d sessions, p50", trafficSessions), ms(median(changes)), "p99 " + ms(percentile(changes, 99)), 0,
		"≤ 0.2 ms", median(changes) <= 200*time.Microsecond,
	})
	return nil
}

// processorTime is what this process has used so far.
func processorTime() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// benchTree puts pods' download trees in force, ours beside tc: once a process for each pod, and all pods in one.
func benchTree(ctx context.Context, r *report) error {
	p := trafficPlan(50*tc.Mbit, false)
	node, k, on, err := pods(3 * trafficTrees)
	if err != nil {
		return err
	}
	defer node.Close()
	defer func() { _ = k.Close() }()
	if _, _, err := applyAll(ctx, k, on[:1], p); err != nil { // the program is loaded once
		return err
	}
	_, ours, err := applyAll(ctx, k, on[1:trafficTrees+1], p)
	if err != nil {
		return err
	}
	batch := func(from, to int) (time.Duration, error) {
		var lines []string
		for i := from; i < to; i++ {
			lines = append(lines, p.Commands(tc.Devices{Host: fmt.Sprintf("v%d", i)}).TC...)
		}
		began := time.Now()
		cmd := exec.CommandContext(ctx, "tc", "-batch", "-")
		cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
		var said bytes.Buffer
		cmd.Stderr = &said
		// The process is started from a thread in the namespace, and so is in it.
		err := node.Do(cmd.Run)
		if err != nil {
			return 0, fmt.Errorf("tc -batch: %w: %s", err, said.String())
		}
		return time.Since(began), nil
	}
	var single time.Duration
	for i := trafficTrees + 1; i < 2*trafficTrees+1; i++ {
		took, err := batch(i, i+1)
		if err != nil {
			return err
		}
		single += took
	}
	all, err := batch(2*trafficTrees+1, 3*trafficTrees)
	if err != nil {
		return err
	}
	per := func(total time.Duration, n int) time.Duration { return total / time.Duration(n) }
	one, theirs, bulk := per(ours, trafficTrees), per(single, trafficTrees), per(all, trafficTrees-1)
	ratio := float64(theirs) / float64(one)
	r.add(figure{"traffic: a pod's tree, read, written and checked", ms(one), "tc -batch for each pod " + ms(theirs), ratio, "≥ 2× as fast", ratio >= 2})
	ratio = float64(bulk) / float64(one)
	r.add(figure{"traffic: the same, beside all pods in one batch", ms(one), "tc -batch, unchecked " + ms(bulk), ratio, "≥ 0.8×", ratio >= 0.8})
	return nil
}

// benchCounters reads the counters of 1,000 pods.
func benchCounters(ctx context.Context, r *report) error {
	node, k, on, err := pods(trafficPods)
	if err != nil {
		return err
	}
	defer node.Close()
	defer func() { _ = k.Close() }()
	if _, _, err := applyAll(ctx, k, on, trafficPlan(50*tc.Mbit, true)); err != nil {
		return err
	}
	var took []time.Duration
	for range 10 {
		began := time.Now()
		counters, err := k.Count(on)
		if err != nil {
			return err
		}
		took = append(took, time.Since(began))
		for _, c := range counters {
			if len(c.Download) != 3 || len(c.Upload) != 3 {
				return fmt.Errorf("%d and %d classes were counted, not 3 and 3", len(c.Download), len(c.Upload))
			}
		}
	}
	r.add(figure{
		fmt.Sprintf("traffic: counters of %d pods, both ways", trafficPods), ms(median(took)), fmt.Sprintf("%d classes", 6*trafficPods), 0,
		"≤ 50 ms", median(took) <= 50*time.Millisecond,
	})
	return nil
}
