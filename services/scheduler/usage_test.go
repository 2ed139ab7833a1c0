package scheduler

import (
	"context"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

// TestUsageOfEveryAttempt: what attempts used counts however they ended, each by itself and all together.
func TestUsageOfEveryAttempt(t *testing.T) {
	s := New(Config{}, Deps{})
	cost := 0.25
	began := time.Now()
	rec := api.TaskRecord{Task: api.Task{TaskSpec: api.TaskSpec{Prompt: "x", Retry: &api.TaskRetry{MaxAttempts: 5}}}}
	key := keyIn("acme", "t1")
	outcomes := []outcomeKind{lost, preempted, busy, timedOut, failed, cancelled}
	for _, kind := range outcomes {
		rec = assigned(rec, key, began)
		s.conclude(&rec, outcome{kind: kind, result: api.TaskResult{Usage: api.Usage{InputTokens: 10, OutputTokens: 1, CostUSD: &cost}}}, 1)
	}
	const counted = 5 // busy is no attempt
	if len(rec.Attempts) != counted || rec.Usage.InputTokens != 10*counted || rec.Usage.OutputTokens != counted || *rec.Usage.CostUSD != cost*counted {
		t.Errorf("%d attempts used %+v", len(rec.Attempts), rec.Usage)
	}
	for _, a := range rec.Attempts {
		if a.Usage.InputTokens != 10 || a.Usage.CostUSD == nil || *a.Usage.CostUSD != cost {
			t.Errorf("the attempt that %s used %+v", a.Outcome, a.Usage)
		}
	}
	if rec.State != api.TaskCancelled || rec.Result.Usage.InputTokens != 10*counted {
		t.Errorf("the task is %s, its result %+v", rec.State, rec.Result)
	}
}

// TestUsageOfWhatWasLost reads what an attempt used from the log of a session that is gone, and none of what others did there.
func TestUsageOfWhatWasLost(t *testing.T) {
	y := newYard(t)
	r := y.start(Config{}, instantly)
	if _, err := bus.OpenLog(t.Context(), bustest.Connect(t, y.srv, y.ring, "sessions"), bus.LogConfig{}); err != nil {
		t.Fatal(err)
	}
	session := api.NewID(api.KindSession)
	appender := bus.NewAppender(bustest.ConnectSession(t, y.srv, y.ring, "acme", session), "acme", session, 0, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ended := make(chan error, 1)
	run, stop := context.WithCancel(ctx)
	go func() { ended <- appender.Run(run) }()
	defer func() { stop(); <-ended }()
	for _, ev := range []api.Event{
		{Type: api.EventUsage, ReplyTo: "another", Usage: &api.Usage{InputTokens: 1000}},
		{Type: api.EventStatus, ReplyTo: "m1", Activity: api.ActivityWorking},
		{Type: api.EventUsage, ReplyTo: "m1", Usage: &api.Usage{InputTokens: 7, OutputTokens: 3}},
		{Type: api.EventUsage, ReplyTo: "m1", Usage: &api.Usage{InputTokens: 5, OutputTokens: 2}},
	} {
		ev.At = time.Now()
		if err := appender.Append(ctx, ev); err != nil {
			t.Fatal(err)
		}
	}
	if err := appender.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	a := newAttempt(r.shards[0], keyIn("acme", api.NewID(api.KindTask)))
	a.session, a.turn = keyIn("acme", session), turn{message: "m1"}
	o := outcome{kind: lost}
	a.finish(ctx, &o)
	if u := o.result.Usage; u.InputTokens != 12 || u.OutputTokens != 5 {
		t.Errorf("it used %+v", u)
	}
}
