package scheduler

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
)

// What a queue's SessionReuse means where it says nothing, and its bounds.
const (
	usualIdle     = 10 * time.Minute
	usualMaxTasks = 20
	usualMaxIdle  = 10
	maxReuses     = 1000
)

const (
	// labelReuse is the label of sessions that tasks use one after another: a hold.
	labelReuse = "task-reuse"
	// claimTries is how often a task asks for a session before it has one made, changeWait how long it waits for news of one that it did not get.
	claimTries = 4
	changeWait = 500 * time.Millisecond
	// maxHeld bounds how many sessions of a queue or a tenant are looked at.
	maxHeld = 10_000
	// endSlack is for what a runner says in the session's log of its turn's end to be in the session's ledger too: that it works no more, and after a short turn even
	// that it runs.
	endSlack = 3 * time.Second
	// needIsolation is what ends all that an agent has started (package sandbox of the sessions service); without it no session is used again.
	needIsolation = "pid"
)

// reuse returns a queue's policy, with its defaults; ok is false when there is none.
func (s *Service) reuse(queue string) (api.SessionReuse, bool) {
	q, _ := s.queue(queue)
	if q.Reuse == nil {
		return api.SessionReuse{}, false
	}
	r := *q.Reuse
	if r.Idle == 0 {
		r.Idle = api.Duration(usualIdle)
	}
	if r.MaxTasks == 0 {
		r.MaxTasks = usualMaxTasks
	}
	if r.MaxIdle == 0 {
		r.MaxIdle = usualMaxIdle
	}
	return r, true
}

func checkReuse(bad *api.Problems, at string, r *api.SessionReuse) {
	if r == nil {
		return
	}
	if r.Idle != 0 && r.Idle.D() < time.Second {
		bad.Add(at+"/idle", "must be at least 1s")
	}
	checkDuration(bad, at+"/idle", r.Idle)
	for field, n := range map[string]int{"/max_tasks": r.MaxTasks, "/max_idle": r.MaxIdle} {
		if n < 0 || n > maxReuses {
			bad.Add(at+field, "must be between 0 and %d", maxReuses)
		}
	}
}

// shares returns the policy of a task that may have another's session.
func (s *Service) shares(rec *api.TaskRecord) (api.SessionReuse, bool) {
	if r := rec.SessionRequest; r.Reuses() || r.Keeps() || r != nil && r.Own {
		return api.SessionReuse{}, false
	}
	return s.reuse(rec.Queue)
}

// poolOf is what a task's session must have in common with another's of the same owner to be used for both. The ref is not part of it: each begins with a
// checkout of its own.
func poolOf(rec *api.TaskRecord) string {
	type repository struct {
		URL   string
		Depth int
	}
	like := struct {
		Queue, Profile string
		Agent          *api.Agent
		Repository     *repository
		Env            map[string]string
	}{Queue: rec.Queue, Profile: rec.Profile, Agent: rec.Agent, Env: rec.Env}
	if rec.Command != "" {
		like.Agent = &api.Agent{Kind: commandKind}
	}
	if r := rec.Repository; r != nil {
		like.Repository = &repository{r.URL, r.Depth}
	}
	data, err := json.Marshal(like) // maps are in order
	if err != nil {
		return "" // cannot happen: it came as JSON
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:12])
}

// use is what a session that tasks use one after another is to its queue.
type use uint8

const (
	inUse  use = iota // by the task that has it, or by one that is not known here yet
	waits             // for its next task
	useOff            // it is to be ended
)

// useOf says what a session is at now, and why it is to be ended. task is the one in labelTask; known says whether it is there. It is pure.
func useOf(h hold, e bus.Entry[api.SessionRecord], task api.TaskRecord, known bool, policy api.SessionReuse, allowed bool, now time.Time) (use, string) {
	rec := &e.State
	begins := rec.State == api.StatePending || rec.State == api.StateStarting || rec.State == api.StateResuming
	switch {
	case !known:
		return useOff, "the task that had it is no longer kept"
	case h.assigned > task.Assigned: // this process is behind
		return inUse, ""
	case h.assigned < task.Assigned:
		return useOff, "the task that had it went on elsewhere"
	case task.State.Active() && (task.SessionID == rec.ID || task.Fence == 0): // without a fence nothing is decided yet (attempt.decide)
		return inUse, ""
	case task.State != api.TaskSucceeded || task.SessionID != rec.ID || task.EndedAt == nil:
		return useOff, "the task that had it did not end well in it"
	case !allowed:
		return useOff, "its queue's tasks have sessions of their own"
	case h.tasks >= policy.MaxTasks:
		return useOff, fmt.Sprintf("it has had %d tasks", h.tasks)
	case now.Sub(*task.EndedAt) >= policy.Idle.D():
		return useOff, fmt.Sprintf("no task came for it in %s", policy.Idle.D())
	case !slices.Contains(rec.Isolation, needIsolation):
		return useOff, "what runs in it cannot be ended for certain"
	case (begins || rec.State == api.StateRunning) && now.Sub(*task.EndedAt) < endSlack:
		return waits, ""
	case rec.State != api.StateRunning:
		return useOff, fmt.Sprintf("it is %s", rec.State)
	case rec.Activity != api.ActivityIdle: // its owner works with it
		return inUse, ""
	}
	return waits, ""
}

// held is a session that tasks use one after another, and what it is at by what this process knows.
type held struct {
	bus.Entry[api.SessionRecord]
	hold   hold
	policy api.SessionReuse // of its queue
	use    use
	why    string // it is to be ended
}

// look returns what a session is at; ok is false when it is not one that tasks use one after another.
func (s *Service) look(e bus.Entry[api.SessionRecord]) (now held, ok bool) {
	h, ok := holdOf(e)
	if !ok {
		return held{}, false
	}
	task, known := s.view.Get(keyIn(e.Key.Tenant, e.State.Labels[labelTask]))
	policy, allowed := s.reuse(h.queue)
	now = held{Entry: e, hold: h, policy: policy}
	now.use, now.why = useOf(h, e, task.State, known, policy, allowed, s.now())
	return now, true
}

// waitingSessions returns at most so many sessions that wait for a task, newest first.
func (s *Service) waitingSessions(index, value string, most int) []held {
	var out []held
	for _, e := range s.sessions.List(index, value, 0, maxHeld, nil) { // no view is asked while another is read
		if len(out) == most {
			break
		}
		if now, ok := s.look(e); ok && now.use == waits {
			out = append(out, now)
		}
	}
	return out
}

// choose decides in which session the assignment runs: one that waits for it, or one of its own. Every assignment is decided once, by its second write, so two
// processes that drive it never drive it in two sessions.
func (a *attempt) choose(ctx context.Context) error {
	own, _ := sessionOf(a.task, a.key)
	pool := poolValue(a.key.Tenant, a.task.Owner, poolOf(&a.task))
	for range claimTries {
		waiting := a.s.waitingSessions(indexPool, pool, 1)
		if len(waiting) == 0 {
			break
		}
		it := waiting[0]
		it.hold.assigned, it.hold.tasks = a.task.Assigned, it.hold.tasks+1
		err := a.claim(ctx, it.Entry, it.hold)
		switch code := api.CodeOf(err); {
		case err == nil:
			return a.decide(ctx, it.Key.ID, own)
		case code == api.CodeConflict || code == api.CodeNotFound: // another was faster, it has ended, or its runner has said something
			a.untilChanged(ctx, it.Entry)
		default:
			return err
		}
	}
	return a.decide(ctx, own, own)
}

// untilChanged waits until this process knows of what has become of a session.
func (a *attempt) untilChanged(ctx context.Context, e bus.Entry[api.SessionRecord]) {
	wait, cancel := context.WithTimeout(ctx, changeWait)
	defer cancel()
	_, _ = a.s.sessions.Wait(wait, e.Key, func(now bus.Entry[api.SessionRecord]) bool { return now.Rev != e.Rev }) // in vain is no error: it is asked for again
}

// claim writes in a session's labels that this assignment has it, on the condition that nothing of it has changed since it waited.
func (a *attempt) claim(ctx context.Context, e bus.Entry[api.SessionRecord], h hold) error {
	age := a.s.now().Sub(e.State.CreatedAt)
	title, ttl := a.title(), api.Duration((age + a.timeout + ttlSlack).Round(time.Second))
	labels := map[string]string{labelTask: a.key.ID, labelReuse: h.String()}
	_, err := rpc.Call(ctx, a.s.client, api.UpdateSession, api.UpdateSessionRequest{ID: e.Key.ID, IfMatch: e.Rev, Title: &title, Labels: &labels, TTL: &ttl})
	return err
}

// decide writes in which session the assignment runs, unless that is decided, and has the attempt follow what is.
func (a *attempt) decide(ctx context.Context, session, own string) error {
	e, err := a.write(ctx, bus.Meta{Actor: actor, Verb: "place"}, func(rec *api.TaskRecord) error {
		if rec.Fence != 0 {
			return bus.ErrUnchanged
		}
		if session != own {
			rec.SessionID, rec.SessionShared = session, true
			rec.Message = api.DeriveID(api.KindMessage, a.key.Tenant, session, rec.Owner, sessionKeyOf(*rec, a.key))
			rec.Attempts = slices.Clone(rec.Attempts)
			rec.Attempts[len(rec.Attempts)-1].Session = session
		}
		return nil
	})
	if err != nil {
		return err
	}
	a.s.watched.remove(a.session, a)
	a.task, a.decided = e.State, true
	a.session, a.turn.message = keyIn(a.key.Tenant, e.State.SessionID), e.State.Message
	a.s.watched.add(a.session, a)
	return nil
}

// sendAnew has the session that the assignment shares begin anew with the task's message. Whoever takes over asks for the same again.
func (a *attempt) sendAnew(ctx context.Context, text string) error {
	renew := api.Renew{}
	if r := a.task.Repository; r != nil {
		renew.Ref = r.Ref
	}
	sent, err := rpc.Call(ctx, a.s.client, api.SendMessage, api.SendMessageRequest{ID: a.session.ID, Content: text, Renew: &renew, IdempotencyKey: sessionKeyOf(a.task, a.key)})
	if err == nil {
		a.after = sent.Seq - 1
	}
	return err
}

// keeps reports whether the attempt's session waits for another task when it has ended so.
func (a *attempt) keeps(o outcome) bool {
	if o.kind != succeeded {
		return false
	}
	e, ok := a.s.sessions.Get(a.session)
	if !ok { // this process is behind: if it does not wait, the sweep ends it
		_, shares := a.s.shares(&a.task)
		return shares
	}
	now, ok := a.s.look(e)
	if !ok || now.use == useOff {
		return false
	}
	return len(a.s.waitingSessions(indexQueue, now.hold.queue, now.policy.MaxIdle+1)) <= now.policy.MaxIdle
}

// makeRoom ends a session that waits for its next task, when a task of key's tenant and of owner finds no capacity: one of the owner's, else of the tenant's. It is
// as good as ended when another task takes it at this moment.
func (s *Service) makeRoom(ctx context.Context, key bus.Key, owner string) {
	var victim held
	better := func(e held) bool {
		mine, his := e.State.Owner == owner, victim.State.Owner == owner
		return victim.Key.ID == "" || mine && !his || mine == his && e.State.LastActiveAt.Before(victim.State.LastActiveAt)
	}
	for _, e := range s.waitingSessions(indexHeld, key.Tenant, maxHeld) {
		if better(e) {
			victim = e
		}
	}
	if victim.Key.ID == "" {
		return
	}
	err := s.endSession(ctx, victim.Key, victim.Rev, victim.State.Owner, key.ID)
	if err != nil && api.CodeOf(err) != api.CodeConflict && ctx.Err() == nil {
		s.log.WarnContext(ctx, "session not ended for want of capacity", "tenant", victim.Key.Tenant, "session", victim.Key.ID, "code", api.CodeOf(err), "err", err)
	}
}
