package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/scheduler"
)

const (
	fewTasks  = 100_000
	manyTasks = 1_000_000
	// depthTasks are made and done in one round, while the others go on waiting.
	depthTasks = 5_000
	// takeoverWork is how long a task takes while the take-over is measured, so that the queue is far from empty at its end.
	takeoverWork = 20 * time.Millisecond
)

// benchDepth: what a task costs, from its request to its recorded end, while so many others wait; the cost is the processor time of all that is ours, bus
// and clients included, so that what else the machine does is not in it. Then what a waiting task holds in memory, in the scheduler and in the bus
// together.
func benchDepth(ctx context.Context, r *report) error {
	river, asynq, stop, err := startPeers(ctx)
	if err != nil {
		return err
	}
	defer stop()
	few, _, err := measureDepth(ctx, fewTasks)
	if err != nil {
		return err
	}
	many, held, err := measureDepth(ctx, manyTasks)
	if err != nil {
		return err
	}
	ratio := float64(many) / float64(few)
	r.add(figure{"tasks: cost of one, 1,000,000 queued", many.Round(time.Microsecond).String(), "100,000 queued " + few.Round(time.Microsecond).String(), ratio, "≤ 1.5×", ratio <= depthGoal})
	for _, p := range []struct {
		peer *taskPeer
		what string
	}{{river, "River, on PostgreSQL's disk"}, {asynq, "Asynq, in Redis"}} {
		empty, err := p.peer.do(ctx, peerOrder{Do: "memory"})
		if err != nil {
			return err
		}
		if _, err := p.peer.do(ctx, peerOrder{Do: "fill", N: fewTasks}); err != nil {
			return err
		}
		full, err := p.peer.do(ctx, peerOrder{Do: "memory"})
		if err != nil {
			return err
		}
		theirs := (full.Bytes - empty.Bytes) / fewTasks
		r.add(figure{"tasks: memory of one that waits", fmt.Sprintf("%d B", held), fmt.Sprintf("%s %d B", p.what, theirs), float64(held) / float64(theirs), "≤ 4 KiB", held <= memoryGoal})
	}
	return nil
}

// measureDepth returns what a task costs while n others wait, and how many bytes each of these holds.
func measureDepth(ctx context.Context, n int) (cost time.Duration, held int64, err error) {
	y, err := startTaskYard(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer y.stop()
	if err := y.openTasks(ctx); err != nil {
		return 0, 0, err
	}
	before := heapInUse()
	if err := y.seed(ctx, n); err != nil {
		return 0, 0, err
	}
	s, err := y.start(ctx, scheduler.Config{Concurrency: taskWorkers}, noWork)
	if err != nil {
		return 0, 0, err
	}
	defer s.stop()
	held = (heapInUse() - before) / int64(n)
	var costs []time.Duration
	for range taskRounds {
		start := cpuTime()
		if _, err := y.enqueue(ctx, taskClients, depthTasks); err != nil {
			return 0, 0, err
		}
		if _, err := y.drain(ctx, s, depthTasks); err != nil { // a few more than depthTasks end until the queue is paused again
			return 0, 0, err
		}
		costs = append(costs, (cpuTime()-start)/depthTasks)
	}
	return median(costs), held, nil
}

// heapInUse is what is alive on the heap.
func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // it cannot fail for oneself
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchTakeover: one replica dispatches a queue of 100,000 and loses its connection in the middle of it, as if it was killed; how long until another
// replica begins a task. Then none is left, and one that starts anew reads the ledger first.
func benchTakeover(ctx context.Context, r *report) error {
	y, err := startTaskYard(ctx)
	if err != nil {
		return err
	}
	defer y.stop()
	if err := y.openTasks(ctx); err != nil {
		return err
	}
	if err := y.seed(ctx, fewTasks); err != nil {
		return err
	}
	start := func() (*taskScheduler, chan time.Time, error) {
		first := make(chan time.Time, 1)
		s, err := y.start(ctx, scheduler.Config{Concurrency: taskWorkers / 4}, func(ctx context.Context, _ api.Task) api.TaskResult {
			select {
			case first <- time.Now():
			default:
			}
			select {
			case <-time.After(takeoverWork):
			case <-ctx.Done():
			}
			return api.TaskResult{}
		})
		return s, first, err
	}
	await := func(first <-chan time.Time) (time.Time, error) {
		select {
		case at := <-first:
			return at, nil
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		}
	}
	leader, led, err := start()
	if err != nil {
		return err
	}
	defer leader.stop()
	if err := y.pause(ctx, false); err != nil {
		return err
	}
	if _, err := await(led); err != nil {
		return err
	}
	other, took, err := start()
	if err != nil {
		return err
	}
	defer other.stop()
	if len(took) > 0 {
		return errors.New("two replicas dispatch the same queue")
	}
	cut := time.Now()
	leader.cutOff()
	at, err := await(took)
	if err != nil {
		return err
	}
	d := at.Sub(cut)
	r.add(figure{"tasks: take-over, 100,000 queued", ms(d), "lease of 3 s", 0, "≤ 5 s", d <= takeoverGoal})
	cut = time.Now()
	other.cutOff()
	third, took, err := start()
	if err != nil {
		return err
	}
	defer third.stop()
	if at, err = await(took); err != nil {
		return err
	}
	d = at.Sub(cut)
	r.add(figure{"tasks: killed and started again, likewise", ms(d), "lease of 3 s", 0, "≤ 5 s", d <= takeoverGoal})
	return nil
}
