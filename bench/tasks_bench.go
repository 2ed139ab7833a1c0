package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/scheduler"
)

const (
	// taskClients ask at the same time, of ours and of each peer: goroutines of one process that each wait for the answer. Ours share the bus connection of
	// one gateway, as in a yard; each of a peer's has a connection of its own, as its library does it.
	taskClients = 128
	// taskRounds is how often ours and the peers are measured in turn; medians are reported.
	taskRounds   = 3
	enqueueTasks = 20_000 // of one round
	drainTasks   = 50_000
	latencyTasks = 200
	// taskWorkers is how many tasks run at once, riverWorkers what River's own benchmark uses.
	taskWorkers  = 512
	riverWorkers = 2000
	// latencyPause lets the queue be idle before the next task.
	latencyPause = 20 * time.Millisecond
)

// The goals.
const (
	enqueueGoal    = 20_000.0 // a second
	rawShare       = 0.5      // of what the bus can do with an enqueue's messages, for tokens, documents, order and indexes
	latencyP50Goal = 5 * time.Millisecond
	latencyP99Goal = 25 * time.Millisecond
	depthGoal      = 1.5 // times, of 1,000,000 tasks to 100,000
	takeoverGoal   = 5 * time.Second
	memoryGoal     = 4096 // bytes of a task that waits
)

// benchEnqueue: tasks made one with each request. Ours is durable against the death of any process when answered, and synced to the disk every
// ten seconds, as a yard's bus is; Redis syncs every second, PostgreSQL before each answer.
func benchEnqueue(ctx context.Context, r *report) error {
	raw, err := startRawYard(ctx)
	if err != nil {
		return err
	}
	defer raw.stop()
	return besidePeers(ctx, scheduler.Config{}, noWork, true, func(p *taskPlace) error {
		var ours, raws, rivers, asynqs []float64
		for range taskRounds {
			v, err := p.enqueue(ctx, taskClients, enqueueTasks)
			if err != nil {
				return err
			}
			ours = append(ours, v)
			if v, err = raw.enqueue(taskClients, enqueueTasks); err != nil {
				return err
			}
			raws = append(raws, v)
			o := peerOrder{Do: "enqueue", N: enqueueTasks, Clients: taskClients}
			if v, err = p.river.rate(ctx, o); err != nil {
				return err
			}
			rivers = append(rivers, v)
			if v, err = p.asynq.rate(ctx, o); err != nil {
				return err
			}
			asynqs = append(asynqs, v)
		}
		own, first, second := medianFloat(ours), medianFloat(rivers), medianFloat(asynqs)
		name := fmt.Sprintf("tasks: enqueued one by one, %d at once", taskClients)
		r.add(figure{name, perSecond(own), "River " + perSecond(first), own / first, "≥ 20,000/s and River's", own >= enqueueGoal && own >= first})
		r.add(figure{name, perSecond(own), "Asynq, fsync each second, " + perSecond(second), own / second, "≥ 20,000/s and Asynq's", own >= enqueueGoal && own >= second})
		limit := medianFloat(raws)
		r.add(figure{name, perSecond(own), "its messages alone " + perSecond(limit), own / limit, fmt.Sprintf("≥ %.1f×", rawShare), own >= rawShare*limit})
		return nil
	})
}

// benchDrain: tasks that wait are all done. Ours goes through everything but sessions (taskYard): the fair order, an assignment in the ledger, which is the fence, the
// work, and the result in the ledger on that fence's condition; a task counts when the ledger has its end. River counts when it has recorded the completion.
func benchDrain(ctx context.Context, r *report) error {
	return besidePeers(ctx, scheduler.Config{Concurrency: taskWorkers}, noWork, true, func(p *taskPlace) error {
		var ours, rivers, asynqs []float64
		for range taskRounds {
			if _, err := p.enqueue(ctx, taskClients, drainTasks); err != nil {
				return err
			}
			took, err := p.drain(ctx, p.scheduler, drainTasks)
			if err != nil {
				return err
			}
			ours = append(ours, drainTasks/took.Seconds())
			for _, to := range []struct {
				peer    *taskPeer
				workers int
				rates   *[]float64
			}{{p.river, riverWorkers, &rivers}, {p.asynq, taskWorkers, &asynqs}} {
				if _, err := to.peer.do(ctx, peerOrder{Do: "clear"}); err != nil {
					return err
				}
				if _, err := to.peer.do(ctx, peerOrder{Do: "fill", N: drainTasks}); err != nil {
					return err
				}
				v, err := to.peer.rate(ctx, peerOrder{Do: "drain", N: drainTasks, Workers: to.workers})
				if err != nil {
					return err
				}
				*to.rates = append(*to.rates, v)
			}
		}
		own, first, second := medianFloat(ours), medianFloat(rivers), medianFloat(asynqs)
		r.add(figure{"tasks: drain of no-op tasks", perSecond(own), "River, tuned, " + perSecond(first), own / first, "≥ River's", own >= first})
		r.add(figure{"tasks: drain of no-op tasks", perSecond(own), "Asynq " + perSecond(second), own / second, "≥ Asynq's", own >= second})
		return nil
	})
}

// drain lets the queue go and returns how long it takes until n more tasks have ended. The queue is paused again.
func (y *taskYard) drain(ctx context.Context, s *taskScheduler, n int) (time.Duration, error) {
	before, err := s.ended()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := y.pause(ctx, false); err != nil {
		return 0, err
	}
	if err := s.awaitEnded(ctx, before+n); err != nil {
		return 0, err
	}
	took := time.Since(start)
	return took, y.pause(ctx, true)
}

// benchDispatch: from before a task is asked for to the begin of its work, while nothing else waits. River is told by LISTEN/NOTIFY and fetches
// every 2 ms at most; Asynq, as it is by default, looks once a second when it found nothing.
func benchDispatch(ctx context.Context, r *report) error {
	began := make(chan time.Duration, 1)
	work := func(_ context.Context, t api.Task) api.TaskResult {
		at, _ := strconv.ParseInt(t.Title, 10, 64) // it is ours
		began <- time.Duration(time.Now().UnixNano() - at)
		return api.TaskResult{}
	}
	return besidePeers(ctx, scheduler.Config{}, work, false, func(p *taskPlace) error {
		ours, err := p.latencies(ctx, latencyTasks, began)
		if err != nil {
			return err
		}
		for _, to := range []struct {
			peer *taskPeer
			n    int
		}{{p.river, latencyTasks}, {p.asynq, latencyTasks / 4}} { // Asynq takes a second for each
			a, err := to.peer.do(ctx, peerOrder{Do: "latency", N: to.n})
			if err != nil {
				return err
			}
			for _, f := range []struct {
				name string
				p    float64
				goal time.Duration
			}{{"p50", 50, latencyP50Goal}, {"p99", 99, latencyP99Goal}} {
				own, other := percentile(ours, f.p), percentile(a.Nanoseconds, f.p)
				r.add(figure{
					"tasks: enqueue to begin of work, idle, " + f.name, ms(own), to.peer.name + " " + ms(other), float64(own) / float64(other),
					fmt.Sprintf("≤ %s", f.goal), own <= f.goal,
				})
			}
		}
		return nil
	})
}

// latencies makes n tasks one by one, each after the work on the one before has begun and a pause.
func (y *taskYard) latencies(ctx context.Context, n int, began <-chan time.Duration) ([]time.Duration, error) {
	people, err := y.members(ctx)
	if err != nil {
		return nil, err
	}
	took := make([]time.Duration, 0, n)
	for i := range n {
		select {
		case <-time.After(latencyPause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		spec := api.TaskSpec{Queue: taskQueue, Prompt: taskPrompt, Title: strconv.FormatInt(time.Now().UnixNano(), 10)}
		if _, err := rpc.Call(people[i%len(people)], y.client, api.CreateTask, api.CreateTaskRequest{TaskSpec: spec}); err != nil {
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
