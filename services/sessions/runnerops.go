package sessions

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

const (
	// reportEvery bounds how often what a runner says of its activity and usage is written; a change of state is written at once.
	reportEvery = 250 * time.Millisecond
	// activeEvery is how old the written last_active_at may become while nothing else changes.
	activeEvery = time.Minute
	// reportWriters write reports that have waited, reportRetry after what did not work.
	reportWriters = 16
	reportRetry   = time.Second
	inboxLimit    = 256
)

// own returns the entry of the session that asks.
func (s *Service) own(ctx context.Context) (bus.Key, bus.Entry[api.SessionRecord], bool) {
	p, _ := api.PrincipalFrom(ctx)
	key := bus.Key{Tenant: p.Tenant, ID: p.ID}
	e, ok := s.view.Get(key)
	return key, e, ok
}

// report takes what a runner says. One that is not the session's current incarnation, or whose session has ended,
// is told to stop. Reports of one runner may reach different replicas; their versions put them in order.
func (s *Service) report(ctx context.Context, req api.RunnerReportRequest) (api.RunnerReportResponse, error) {
	key, e, ok := s.own(ctx)
	if !wanted(e.State, ok, req) {
		// A runner ends for this, so it must not be for a view that is behind.
		var err error
		if e, err = s.sessions.Get(ctx, key); err != nil && api.CodeOf(err) != api.CodeNotFound {
			return api.RunnerReportResponse{}, err
		}
		if !wanted(e.State, err == nil, req) {
			return api.RunnerReportResponse{Stop: true}, nil
		}
	}
	trace(key, req.Turns) //nolint:contextcheck // each turn has its own request's trace
	req.Turns = nil
	now := s.now()
	var wait time.Duration
	s.tracker.with(key, func(k *tracked) {
		k.report = &req
		if !urgent(e.State, req) {
			wait = reportEvery - now.Sub(k.written)
		}
	})
	if !s.news(e.State, req) {
		s.tracker.with(key, func(k *tracked) { k.report = nil })
		return api.RunnerReportResponse{}, nil
	}
	if wait > 0 {
		s.reports.AddAfter(key, wait)
		return api.RunnerReportResponse{}, nil
	}
	return api.RunnerReportResponse{}, s.writeReport(ctx, key)
}

// wanted reports whether the runner that sent req is the one that should run.
func wanted(rec api.SessionRecord, ok bool, req api.RunnerReportRequest) bool {
	return ok && rec.Incarnation == req.Incarnation && !rec.State.Final() && rec.State != api.StatePaused
}

// urgent reports whether a report says what somebody waits for.
func urgent(rec api.SessionRecord, req api.RunnerReportRequest) bool {
	begins := rec.State == api.StateStarting || rec.State == api.StateResuming
	return req.State == api.StateFailed || begins && (req.State == api.StateRunning || req.Address != rec.Address)
}

// changes reports whether a report says anything new.
func changes(rec api.SessionRecord, req api.RunnerReportRequest) bool {
	next := applied(rec, req, time.Time{})
	return next.State != rec.State || next.Activity != rec.Activity || next.Background != rec.Background || next.Endpoint != rec.Endpoint || next.Address != rec.Address || next.Reason != rec.Reason ||
		next.Agent.Version != rec.Agent.Version || !sameUsage(next.Usage, rec.Usage) || next.LastActiveAt.Sub(rec.LastActiveAt) >= activeEvery
}

// news reports whether a report is to be written. Where other replicas take reports too, one of them may hold an older report that
// differs, although this one says what the ledger says: its version must get there first.
func (s *Service) news(rec api.SessionRecord, req api.RunnerReportRequest) bool {
	return changes(rec, req) || s.deps.Info.Shared && req.Version > rec.Report
}

// flushReport writes a report that has waited, and tries again later what does not work.
func (s *Service) flushReport(ctx context.Context, key bus.Key) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if err := s.writeReport(ctx, key); err != nil && ctx.Err() == nil {
		s.log.Warn("write report", "op", api.RunnerReport.Verb, "tenant", key.Tenant, "session", key.ID, "code", api.CodeOf(err), "err", err)
		s.reports.AddAfter(key, reportRetry)
	}
}

// writeReport writes the newest report of key, if there is one.
func (s *Service) writeReport(ctx context.Context, key bus.Key) error {
	var req *api.RunnerReportRequest
	now := s.now()
	s.tracker.with(key, func(k *tracked) {
		req, k.report, k.written = k.report, nil, now
	})
	if req == nil {
		return nil
	}
	e, ok := s.lookUp(ctx, key)
	if !ok || e.State.Incarnation > req.Incarnation {
		return nil
	}
	verb := "report"
	if urgent(e.State, *req) {
		verb = map[api.State]string{api.StateRunning: "run", api.StateFailed: "fail"}[req.State]
	}
	_, err := s.sessions.Update(ctx, key, bus.Meta{Actor: "session:" + key.ID, Verb: verb, Reason: clip(req.Reason, maxReason)}, func(rec api.SessionRecord) (api.SessionRecord, error) {
		if rec.Incarnation != req.Incarnation || rec.State.Final() || req.Version < rec.Report || !s.news(rec, *req) {
			return rec, bus.ErrUnchanged
		}
		return applied(rec, *req, now.UTC()), nil
	})
	if err != nil {
		s.tracker.with(key, func(k *tracked) {
			if k.report == nil {
				k.report = req // for the next try
			}
		})
	}
	return err
}

// maxReason bounds the reasons that a runner gives.
const maxReason = 2000

// applied returns rec after a report of its current incarnation.
func applied(rec api.SessionRecord, req api.RunnerReportRequest, now time.Time) api.SessionRecord {
	rec.Usage = rec.BaseUsage.Plus(req.Usage)
	rec.Report = max(rec.Report, req.Version)
	if req.Agent.Version != "" {
		rec.Agent.Version = clip(req.Agent.Version, 100)
	}
	if at := time.UnixMilli(req.ActiveAt).UTC(); req.ActiveAt > 0 && at.After(rec.LastActiveAt) {
		rec.LastActiveAt = at
	}
	reason := clip(req.Reason, maxReason)
	switch {
	case req.State == api.StateFailed && mayFollow(rec.State, api.StateFailed) && rec.State != api.StateStopping:
		rec.State, rec.Reason = api.StateFailed, reason
		entered(&rec, now)
	case req.State == api.StateRunning && mayFollow(rec.State, api.StateRunning):
		rec.State, rec.Reason = api.StateRunning, reason
		rec.Endpoint, rec.Address, rec.Activity, rec.Background = req.Endpoint, req.Address, req.Activity, max(req.Background, 0)
		if rec.StartedAt == nil {
			rec.StartedAt = &now
		}
		entered(&rec, now)
	case rec.State == api.StateRunning:
		rec.Activity, rec.Endpoint, rec.Reason = req.Activity, req.Endpoint, reason
		rec.Background = max(req.Background, 0)
	case rec.State == api.StateStarting || rec.State == api.StateResuming:
		rec.Reason, rec.Address = reason, req.Address // how far it is, and where its traffic will be seen
	}
	return rec
}

func sameUsage(a, b api.Usage) bool {
	return a.InputTokens == b.InputTokens && a.OutputTokens == b.OutputTokens && same(a.CostUSD, b.CostUSD) &&
		same(a.CPUSeconds, b.CPUSeconds) && same(a.NetworkRxBytes, b.NetworkRxBytes) && same(a.NetworkTxBytes, b.NetworkTxBytes)
}

func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// inbox returns what people sent to the session that asks.
func (s *Service) inbox(ctx context.Context, req api.RunnerInboxRequest) (api.RunnerInboxResponse, error) {
	key, _, _ := s.own(ctx)
	limit := req.Limit
	if limit <= 0 || limit > inboxLimit {
		limit = inboxLimit
	}
	evs, more, err := s.events.Read(ctx, key.Tenant, key.ID, api.WriterUser, req.After, limit)
	if err != nil {
		return api.RunnerInboxResponse{}, err
	}
	evs, cut := fit(evs)
	return api.RunnerInboxResponse{Events: evs, More: more || cut}, nil
}

// maxInbox bounds an inbox answer's content, with room for escapes in the bus's largest message.
const maxInbox = 1 << 20

// fit returns as many events as one answer holds, at least one.
func fit(evs []api.Event) (kept []api.Event, cut bool) {
	size := 0
	for i, ev := range evs {
		data, err := json.Marshal(ev)
		if err != nil {
			continue // cannot happen: it came as JSON
		}
		if size += len(data); size > maxInbox && i > 0 {
			return evs[:i], true
		}
	}
	return evs, false
}

// The first look back into a log for where a runner left off, in sequences of the whole stream, and how much further each next one goes.
const (
	lookBack       = 1_000 << 10 // about a thousand entries
	lookBackGrowth = 8
	// recentMessages and recentBytes bound the conversation for an agent that cannot load its own.
	recentMessages = 50
	recentBytes    = 256 << 10
)

// position says where the runner before the one that asks left off.
func (s *Service) position(ctx context.Context, _ api.None) (api.RunnerResumeResponse, error) {
	key, _, _ := s.own(ctx)
	return s.leftOff(ctx, key)
}

// leftOff reads where a session's runner is from the newest mark on the agent's side of its log.
func (s *Service) leftOff(ctx context.Context, key bus.Key) (api.RunnerResumeResponse, error) {
	var out api.RunnerResumeResponse
	seq, writer, err := s.events.Position(ctx, key.Tenant, key.ID)
	if err != nil || seq == 0 {
		return out, err
	}
	out.LastSeq, out.LastWriter = seq, writer
	for back := uint64(lookBack); ; back *= lookBackGrowth {
		after := seq - min(seq, back)
		enough, err := s.lookBack(ctx, key, after, &out)
		if err != nil || after == 0 || enough {
			return out, err
		}
	}
}

// sinceRenewal leaves of a conversation what came with and after the last message with which the session began anew. One whose turn has not ended will do so again.
func sinceRenewal(talk []api.Message, renewals []uint64, done uint64) []api.Message {
	for _, seq := range slices.Backward(renewals) {
		if seq <= done {
			return slices.DeleteFunc(talk, func(m api.Message) bool { return m.Seq < seq })
		}
	}
	return talk
}

// lookBack reads a log after a sequence and fills in the newest mark and the recent conversation. It reports whether nothing before matters.
func (s *Service) lookBack(ctx context.Context, key bus.Key, after uint64, out *api.RunnerResumeResponse) (enough bool, err error) {
	out.Conversation = nil
	marked := false
	size := 0
	var renewals []uint64
	for more := true; more; {
		var evs []api.Event
		if evs, more, err = s.events.Read(ctx, key.Tenant, key.ID, "", after, scanPage); err != nil {
			return false, err
		}
		for _, ev := range evs {
			after = ev.Seq
			if ev.Renew != nil {
				renewals = append(renewals, ev.Seq)
			}
			if m, ok := messageOf(ev); ok {
				out.Conversation = append(out.Conversation, m)
				size += len(m.Content)
				for len(out.Conversation) > recentMessages || size > recentBytes && len(out.Conversation) > 1 {
					size -= len(out.Conversation[0].Content)
					out.Conversation = out.Conversation[1:]
				}
			}
			var mark api.RunnerMark
			if ev.Type == api.EventStatus && len(ev.Raw) > 0 && json.Unmarshal(ev.Raw, &mark) == nil {
				marked = true
				out.DoneSeq, out.InterruptSeq, out.AgentSession = mark.DoneSeq, mark.InterruptSeq, mark.AgentSession
			}
		}
	}
	talk := sinceRenewal(out.Conversation, renewals, out.DoneSeq)
	enough = marked && (len(talk) >= recentMessages || len(talk) < len(out.Conversation))
	out.Conversation = talk
	return enough, nil
}
