package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/scheduler"
)

const (
	// taskPrompt is the payload of every task, ours and the peers'.
	taskPrompt = "say hello and change nothing"
	taskQueue  = "bench"
)

// noWork is what a task does in these benchmarks.
func noWork(context.Context, api.Task) api.TaskResult { return api.TaskResult{} }

// queue makes the queue of the benchmarks.
func (y *taskYard) queue(ctx context.Context, paused bool) error {
	admin, err := y.person(ctx, api.HomeTenant, api.RoleAdmin)
	if err == nil {
		_, err = rpc.Call(admin, y.client, api.CreateQueue, api.Queue{Name: taskQueue, Paused: paused})
	}
	return err
}

// pause stops the queue from starting tasks, or lets it.
func (y *taskYard) pause(ctx context.Context, paused bool) error {
	admin, err := y.person(ctx, api.HomeTenant, api.RoleAdmin)
	if err != nil {
		return err
	}
	op := api.ResumeQueue
	if paused {
		op = api.PauseQueue
	}
	_, err = rpc.Call(admin, y.client, op, api.NameRef{Name: taskQueue})
	return err
}

// enqueue creates n tasks, one with each request, from so many clients, each of which waits for the answer to its request before the next: the ledger has
// the task then, on the bus's disk as far as the kernel is concerned. It returns how many a second.
func (y *taskYard) enqueue(ctx context.Context, clients, n int) (float64, error) {
	people, err := y.members(ctx)
	if err != nil {
		return 0, err
	}
	return fromMany(clients, n, func(client int) error {
		req := api.CreateTaskRequest{TaskSpec: api.TaskSpec{Queue: taskQueue, Prompt: taskPrompt}}
		_, err := rpc.Call(people[client%len(people)], y.client, api.CreateTask, req)
		return err
	})
}

// seed writes n waiting tasks straight into the ledger, as the scheduler would have.
func (y *taskYard) seed(ctx context.Context, n int) error {
	conn, err := y.connect("scheduler")
	if err != nil {
		return err
	}
	const flying = 4096
	js, err := jetstream.New(conn.NATS(), jetstream.WithPublishAsyncMaxPending(flying))
	if err != nil {
		return err
	}
	usual, now := api.DefaultPriority, time.Now().UTC()
	for i := range n {
		id, tenant := api.NewID(api.KindTask), taskTenant(i)
		rec := api.TaskRecord{Task: api.Task{
			ID: id, Tenant: tenant, Owner: "u" + strconv.Itoa(i%100), State: api.TaskQueued, CreatedAt: now, QueuedAt: now,
			TaskSpec: api.TaskSpec{Queue: taskQueue, Prompt: taskPrompt, Priority: &usual},
		}}
		data, err := json.Marshal(api.Change[api.TaskRecord]{At: now, Actor: rec.Owner, Verb: "create", State: rec})
		if err != nil {
			return err
		}
		m := &nats.Msg{Subject: api.LedgerPrefix + "tasks." + tenant + "." + id, Header: nats.Header{"Yard-Write": {"seed:" + strconv.Itoa(i+1)}}, Data: data}
		if _, err := js.PublishMsgAsync(m, jetstream.WithStallWait(time.Minute)); err != nil {
			return fmt.Errorf("seed: %w", err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// openTasks makes the ledger before there is a scheduler that would.
func (y *taskYard) openTasks(ctx context.Context) error {
	first, err := y.start(ctx, scheduler.Config{}, noWork)
	if err != nil {
		return err
	}
	defer first.stop()
	return y.queue(ctx, true)
}

// cutOff takes a replica's connection away at once, as a kill would: it cannot give its lease back.
func (s *taskScheduler) cutOff() { s.conn.NATS().Close() }
