package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
)

const (
	// commandKind is the kind of agent that runs each message as a command.
	commandKind = "command"
	// labelTask is the label of the sessions that tasks have of their own.
	labelTask = "task"
	// callTimeout bounds one call of the sessions service or of auth.
	callTimeout = 10 * time.Second
	// Between tries of what another service cannot do at the moment.
	firstPause = 100 * time.Millisecond
	mostPause  = 3 * time.Second
	// ttlSlack is by how much a session may outlive its attempt before it ends by itself, should nobody end it.
	ttlSlack = 30 * time.Minute
	// eventsAhead is how many events of the log may wait for the attempt.
	eventsAhead = 64
)

// attempt drives one assignment of a task: it asks for the session as the task's owner, follows the session's log until the turn of
// the task's message has ended, and writes what became of it. Everything it asks for is named after the assignment, so the process that
// takes over does the same again without doing it twice.
type attempt struct {
	s     *Service
	shard *shard
	key   bus.Key
	news  chan struct{} // of capacity 1: the task or the session has changed

	fence   uint64
	task    api.TaskRecord // as assigned
	session bus.Key
	turn    turn
	timeout time.Duration
	decided bool   // in which session it runs (choose)
	after   uint64 // of the log: seen up to here
	current bool   // what the log held when the attempt was taken up was seen

	putOff   atomic.Pointer[outcome]            // set when another takes its place
	stopWork atomic.Pointer[context.CancelFunc] // of Deps.Execute
	stopping outcome                            // what it is when the turn has ended; zero: nobody stops it
	stopBy   time.Time                          // then it is not waited for any more
}

func newAttempt(sh *shard, key bus.Key) *attempt {
	return &attempt{s: sh.s, shard: sh, key: key, news: make(chan struct{}, 1)}
}

func (a *attempt) poke() {
	select {
	case a.news <- struct{}{}:
	default:
	}
}

// sessionOf returns the session of an assignment and the message that carries the task there.
func sessionOf(rec api.TaskRecord, key bus.Key) (session, message string) {
	name := sessionKeyOf(rec, key)
	if r := rec.SessionRequest; r.Reuses() {
		return r.Reuse, api.DeriveID(api.KindMessage, key.Tenant, r.Reuse, rec.Owner, name)
	}
	session = api.DeriveID(api.KindSession, key.Tenant, rec.Owner, name)
	return session, api.DeriveID(api.KindMessage, key.Tenant, session, "prompt")
}

// sessionKeyOf is the idempotency key of an assignment.
func sessionKeyOf(rec api.TaskRecord, key bus.Key) string {
	return "task/" + key.ID + "/" + strconv.Itoa(rec.Assigned)
}

func (a *attempt) reuses() bool { return a.task.SessionRequest.Reuses() }

// run drives the assignment e until it is settled, superseded or ctx ends.
func (a *attempt) run(ctx context.Context, e bus.Entry[api.TaskRecord]) {
	a.fence, a.task, a.decided = fenceOf(e), e.State, e.State.Fence != 0
	a.session = keyIn(a.key.Tenant, a.task.SessionID)
	a.turn = turn{message: a.task.Message, command: a.task.Command != ""}
	a.timeout = a.s.timeoutOf(a.task)
	if execute := a.s.deps.Execute; execute != nil {
		a.settle(ctx, a.execute(ctx, execute))
		return
	}
	a.s.watched.add(a.session, a)
	defer func() { a.s.watched.remove(a.session, a) }() // the session may become another (decide)
	if o, ok := a.drive(ctx); ok {
		if a.settle(ctx, o) {
			a.cleanUp(ctx, o)
		}
	}
}

func (s *Service) timeoutOf(rec api.TaskRecord) time.Duration {
	if rec.Timeout > 0 {
		return rec.Timeout.D()
	}
	if q, _ := s.queue(rec.Queue); q.DefaultTimeout > 0 {
		return q.DefaultTimeout.D()
	}
	return s.cfg.Timeout
}

// drive returns what became of the attempt; ok is false when that is for another to find out.
func (a *attempt) drive(ctx context.Context) (o outcome, ok bool) {
	if o, done := a.begin(ctx); done {
		a.finish(ctx, &o)
		return o, ctx.Err() == nil
	}
	if ctx.Err() != nil {
		return outcome{}, false
	}
	follow, stop := context.WithCancel(ctx)
	events := make(chan *api.Event, eventsAhead) // nil: the head of the log
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		send := func(ev *api.Event) error {
			select {
			case events <- ev:
				return nil
			case <-follow.Done():
				return follow.Err()
			}
		}
		// It ends with its context: the log of a session that was made is there.
		_ = a.s.events.Follow(follow, a.session.Tenant, a.session.ID, a.after, func(ev api.Event) error { return send(&ev) }, func() { _ = send(nil) })
	}()
	defer func() { <-ended }()
	defer stop()
	a.poke()
	for {
		o, state := a.check(ctx)
		switch state {
		case over:
			a.finish(ctx, &o)
			return o, ctx.Err() == nil
		case notOurs:
			return outcome{}, false
		}
		timer := time.NewTimer(max(time.Until(a.next()), time.Millisecond))
		select {
		case <-ctx.Done():
			timer.Stop()
			return outcome{}, false
		case ev := <-events:
			a.see(ctx, ev)
		case <-a.news:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// begin makes the session with the task's message in it, or sends the message to the one that is reused. done says that the
// attempt is over already.
func (a *attempt) begin(ctx context.Context) (o outcome, done bool) {
	for n := 0; ; n++ {
		if o, state := a.checkTask(); state != goesOn {
			return o, state == over
		}
		if now, at := a.s.now(), a.startBy(); now.After(at) {
			return outcome{kind: lost, reason: "it could not be started in time: " + a.turn.trouble}, true
		}
		err := a.ask(ctx)
		if err == nil || ctx.Err() != nil {
			return outcome{}, false
		}
		detail := api.Redact(err).Detail
		switch api.CodeOf(err) {
		case api.CodeExhausted:
			if a.reuses() {
				break
			}
			a.s.makeRoom(ctx, a.key, a.task.Owner)
			return outcome{kind: busy, reason: detail}, true
		case api.CodeUnavailable, api.CodeInternal:
		case api.CodeUnauthenticated:
			a.s.acting.drop(a.key.Tenant, a.task.Owner)
		case api.CodeConflict, api.CodeNotFound:
			if a.reuses() || !a.task.SessionShared {
				return outcome{kind: failed, reason: detail, final: true}, true
			}
			// The session cannot begin anew: another assignment has another.
			if err := a.s.endSession(ctx, a.session, 0, a.task.Owner, a.key.ID); err != nil {
				a.s.log.WarnContext(ctx, "session not ended; the sweep tries again", "tenant", a.key.Tenant, "session", a.session.ID, "code", api.CodeOf(err), "err", err)
			}
			return outcome{kind: busy, reason: detail}, true
		default:
			return outcome{kind: failed, reason: detail, final: true}, true
		}
		a.turn.trouble = detail
		if !a.pause(ctx, n) {
			return outcome{}, false
		}
	}
}

// pause waits before another try, or until something has changed.
func (a *attempt) pause(ctx context.Context, n int) bool {
	timer := time.NewTimer(min(firstPause<<min(n, 10), mostPause))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-a.news:
	}
	return true
}

// asOwner returns ctx with which to act as the task's owner.
func (a *attempt) asOwner(ctx context.Context) (context.Context, error) {
	return a.s.acting.as(ctx, a.key.Tenant, a.task.Owner, "task "+a.key.ID)
}

func (a *attempt) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ctx, err := a.asOwner(ctx)
	if err != nil {
		return err
	}
	name := sessionKeyOf(a.task, a.key)
	text := a.task.Prompt + a.task.Command // one of them is empty
	if a.reuses() {
		sent, err := rpc.Call(ctx, a.s.client, api.SendMessage, api.SendMessageRequest{ID: a.session.ID, Content: text, IdempotencyKey: name})
		if err == nil {
			a.after = sent.Seq - 1
		}
		return err
	}
	policy, shares := a.s.shares(&a.task)
	if shares && !a.decided {
		if err := a.choose(ctx); err != nil {
			return err
		}
	}
	if a.task.SessionShared {
		return a.sendAnew(ctx, text)
	}
	req := api.CreateSessionRequest{
		Profile: a.task.Profile, Title: a.title(), Prompt: text, Repository: a.task.Repository, Env: a.task.Env, Agent: a.task.Agent,
		Labels: map[string]string{labelTask: a.key.ID}, IdempotencyKey: name,
	}
	if a.task.Command != "" {
		req.Agent = &api.Agent{Kind: commandKind}
	}
	if !a.task.SessionRequest.Keeps() {
		req.TTL = api.Duration(a.timeout + ttlSlack)
	}
	if shares {
		h := hold{queue: a.task.Queue, pool: poolOf(&a.task), maker: a.key.ID, made: a.task.Assigned, assigned: a.task.Assigned, tasks: 1}
		req.Labels[labelReuse] = h.String()
		req.IdleTimeout = policy.Idle + api.Duration(a.s.cfg.Sweep)
	}
	if _, ok := a.s.sessions.Get(a.session); ok && a.delivered(ctx) {
		return nil // asked for before; a queue that was changed since would make it another request
	}
	_, err = rpc.Call(ctx, a.s.client, api.CreateSession, req)
	return err
}

// delivered reports whether the session that the attempt has of its own holds the task's message.
func (a *attempt) delivered(ctx context.Context) bool {
	evs, _, err := a.s.events.Read(ctx, a.session.Tenant, a.session.ID, api.WriterUser, 0, eventsAhead)
	return err == nil && slices.ContainsFunc(evs, func(ev api.Event) bool { return ev.MessageID == a.turn.message })
}

func (a *attempt) title() string {
	if a.task.Title != "" {
		return a.task.Title
	}
	return "task " + a.key.ID
}

// startBy is when the attempt must have begun to work.
func (a *attempt) startBy() time.Time { return a.task.StartedAt.Add(a.s.cfg.StartTimeout) }

// next is when time alone changes what becomes of the attempt.
func (a *attempt) next() time.Time {
	at := a.task.StartedAt.Add(a.timeout)
	if d := a.task.Deadline; d != nil && d.Before(at) {
		at = *d
	}
	if !a.turn.began && a.startBy().Before(at) {
		at = a.startBy()
	}
	if a.stopping.kind != 0 {
		at = a.stopBy
	}
	return at
}

// state says whether an attempt goes on.
type state uint8

const (
	goesOn state = iota
	over
	notOurs // superseded: another assignment, or another end, stands in the ledger
)

// checkTask looks at what the ledger says of the task, and at the clock.
func (a *attempt) checkTask() (outcome, state) {
	e, ok := a.s.view.Get(a.key)
	if !ok || fenceOf(e) != a.fence {
		return outcome{}, notOurs
	}
	now := a.s.now()
	put := a.putOff.Load()
	switch d := a.task.Deadline; {
	case e.State.CancelRequested:
		return outcome{kind: cancelled, reason: e.State.Reason}, over
	case d != nil && !d.After(now):
		return outcome{kind: expired, reason: "its deadline passed while it ran"}, over
	case now.Sub(*a.task.StartedAt) >= a.timeout:
		return outcome{kind: timedOut, reason: fmt.Sprintf("the attempt took longer than %s", a.timeout)}, over
	case put != nil:
		return *put, over
	}
	return outcome{}, goesOn
}

// check decides whether the attempt is over.
func (a *attempt) check(ctx context.Context) (outcome, state) {
	o, st := a.checkTask()
	if st == notOurs {
		return o, st
	}
	if a.turn.ended {
		if a.stopping.kind != 0 {
			return a.stopping, over
		}
		return a.turn.outcome(), over
	}
	if e, ok := a.s.sessions.Get(a.session); ok && e.State.State.Final() {
		a.readRest(ctx)
		switch {
		case a.turn.ended && a.stopping.kind == 0:
			return a.turn.outcome(), over
		case a.stopping.kind != 0:
			return a.stopping, over
		}
		return outcome{kind: lost, reason: sessionEnd(e.State.Session), final: a.reuses()}, over
	}
	if st == over && a.stopping.kind == 0 {
		a.stopping, a.stopBy = o, a.s.now().Add(a.s.cfg.InterruptGrace)
		a.interrupt(ctx)
	}
	if a.stopping.kind != 0 {
		if a.s.now().Before(a.stopBy) {
			return outcome{}, goesOn
		}
		return a.stopping, over // its session is stopped next, and killed if it must be
	}
	if !a.turn.began && a.s.now().After(a.startBy()) {
		return outcome{kind: lost, reason: "its session did not begin to work in time"}, over
	}
	return outcome{}, goesOn
}

func sessionEnd(s api.Session) string {
	text := "its session has " + map[api.State]string{api.StateFailed: "failed", api.StateTerminated: "been ended"}[s.State]
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	return text
}

// interrupt asks the agent to end its turn. An agent that is not asked is stopped when the grace is over.
func (a *attempt) interrupt(ctx context.Context) {
	call, cancel := context.WithTimeout(ctx, min(callTimeout, a.s.cfg.InterruptGrace))
	defer cancel()
	as, err := a.asOwner(call)
	if err == nil {
		_, err = rpc.Call(as, a.s.client, api.InterruptSession, api.SessionRef{ID: a.session.ID})
	}
	if err != nil {
		a.stopBy = a.s.now()
	}
}

// readRest reads what a session that has ended had written and the attempt has not seen.
func (a *attempt) readRest(ctx context.Context) {
	for {
		evs, more, err := a.s.events.Read(ctx, a.session.Tenant, a.session.ID, api.WriterAgent, a.after, 1000)
		if err != nil {
			return // what is unknown is lost; another attempt does it again
		}
		for _, ev := range evs {
			a.turn.take(ev)
			a.after = ev.Seq
		}
		if !more || a.turn.ended {
			return
		}
	}
}

// see takes an event of the session into account, nil for the head of its log, and writes when the task's state changes with it. What was before
// the head another may have written: the state is not taken back to it.
func (a *attempt) see(ctx context.Context, ev *api.Event) {
	var news bool
	if ev == nil {
		a.current, news = true, a.turn.began
	} else {
		a.after = ev.Seq
		news = a.turn.take(*ev)
	}
	if !news || !a.current || a.turn.ended {
		return
	}
	want := api.TaskRunning
	if a.turn.asks {
		want = api.TaskWaiting
	}
	a.persist(ctx, func(ctx context.Context) error {
		_, err := a.write(ctx, bus.Meta{Actor: actor, Verb: map[api.TaskState]string{api.TaskRunning: "run", api.TaskWaiting: "ask"}[want]}, func(rec *api.TaskRecord) error {
			if rec.State == want {
				return bus.ErrUnchanged
			}
			rec.State = want
			if !rec.CancelRequested {
				rec.Reason = ""
				if want == api.TaskWaiting {
					rec.Reason = clip("its agent asks: "+a.turn.question, maxTitle)
				}
			}
			return nil
		})
		return err
	})
}

// errSuperseded says that the assignment is no longer the task's.
var errSuperseded = errors.New("superseded")

// write changes the task on the condition that this assignment is still the one that counts.
func (a *attempt) write(ctx context.Context, meta bus.Meta, f func(*api.TaskRecord) error) (bus.Entry[api.TaskRecord], error) {
	return a.s.change(ctx, a.key, meta, func(e bus.Entry[api.TaskRecord], rec *api.TaskRecord) error {
		if fenceOf(e) != a.fence {
			return errSuperseded
		}
		return f(rec)
	})
}

// persist tries until it works, the assignment is superseded or ctx ends. It reports whether it worked.
func (a *attempt) persist(ctx context.Context, try func(context.Context) error) bool {
	for n := 0; ; n++ {
		err := try(ctx)
		switch {
		case err == nil:
			return true
		case errors.Is(err, errSuperseded), api.CodeOf(err) == api.CodeNotFound, ctx.Err() != nil:
			return false
		}
		a.s.log.WarnContext(ctx, "task not written; it is tried again", "tenant", a.key.Tenant, "task", a.key.ID, "code", api.CodeOf(err), "err", err)
		if !a.pause(ctx, n) {
			return false
		}
	}
}
