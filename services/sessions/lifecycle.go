package sessions

import (
	"context"
	"maps"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// update changes what a person may change. Labels are merged: an empty value removes its label. What changes nothing is no change
// in the history.
func (s *Service) update(ctx context.Context, req api.UpdateSessionRequest) (api.Session, error) {
	e, p, err := s.find(ctx, api.SessionWrite, req.ID)
	if err != nil {
		return api.Session{}, err
	}
	var bad problems
	if req.Title != nil {
		bad.Line("/title", *req.Title, maxTitle)
	}
	if req.Labels != nil {
		bad.labels("/labels", *req.Labels)
	}
	if req.TTL != nil {
		bad.duration("/ttl", *req.TTL)
	}
	if req.IdleTimeout != nil {
		bad.duration("/idle_timeout", *req.IdleTimeout)
	}
	if err := bad.Err(); err != nil {
		return api.Session{}, err
	}
	e, err = s.sessions.UpdateAt(ctx, e.Key, req.IfMatch, bus.Meta{Actor: p.ID, Verb: "update"}, func(rec api.SessionRecord) (api.SessionRecord, error) {
		old := rec
		if req.Title != nil {
			rec.Title = *req.Title
		}
		if req.Labels != nil {
			rec.Labels = mergeLabels(rec.Labels, *req.Labels)
			if len(rec.Labels) > maxLabels {
				return rec, api.Invalid("/labels", "the session would have %d labels; at most %d are allowed", len(rec.Labels), maxLabels)
			}
		}
		if req.TTL != nil {
			rec.TTL = *req.TTL
		}
		if req.IdleTimeout != nil {
			rec.IdleTimeout = *req.IdleTimeout
		}
		if rec.Title == old.Title && maps.Equal(rec.Labels, old.Labels) && rec.TTL == old.TTL && rec.IdleTimeout == old.IdleTimeout {
			return rec, bus.ErrUnchanged
		}
		return rec, nil
	})
	return public(e), err
}

func mergeLabels(old, change map[string]string) map[string]string {
	merged := maps.Clone(old)
	if merged == nil {
		merged = map[string]string{}
	}
	for k, v := range change {
		if v == "" {
			delete(merged, k)
		} else {
			merged[k] = v
		}
	}
	return merged
}

// delete ends a session for good. Ending what has ended is success; of a failed one it removes the workspace.
func (s *Service) delete(ctx context.Context, req api.SessionRef) (api.Session, error) {
	e, p, err := s.find(ctx, api.SessionDelete, req.ID)
	if err != nil {
		return api.Session{}, err
	}
	e, err = s.finish(ctx, e.Key, req.IfMatch, bus.Meta{Actor: p.ID, Verb: "delete"})
	return public(e), err
}

// finish has a session stopped for good, and removes what is left of one that failed.
func (s *Service) finish(ctx context.Context, key bus.Key, rev uint64, meta bus.Meta) (bus.Entry[api.SessionRecord], error) {
	e, err := s.move(ctx, key, rev, meta, func(rec *api.SessionRecord) error {
		if rec.State == api.StateStopping || rec.State.Final() {
			return bus.ErrUnchanged
		}
		rec.State = api.StateStopping
		return nil
	})
	if err == nil && e.State.State == api.StateFailed {
		err = s.deps.Runtime.Stop(ctx, refOf(e.Key), s.cfg.StopGrace, false)
	}
	return e, err
}

// pause puts a running session aside.
func (s *Service) pause(ctx context.Context, req api.SessionRef) (api.Session, error) {
	e, p, err := s.find(ctx, api.SessionWrite, req.ID)
	if err != nil {
		return api.Session{}, err
	}
	e, err = s.move(ctx, e.Key, req.IfMatch, bus.Meta{Actor: p.ID, Verb: "pause"}, func(rec *api.SessionRecord) error {
		switch rec.State {
		case api.StatePausing, api.StatePaused:
			return bus.ErrUnchanged
		case api.StateRunning:
			rec.State = api.StatePausing
			return nil
		}
		return api.Errorf(api.CodeConflict, "a session that is %s cannot be paused", rec.State)
	})
	return public(e), err
}

// resume brings a paused session back.
func (s *Service) resume(ctx context.Context, req api.SessionRef) (api.Session, error) {
	e, p, err := s.find(ctx, api.SessionWrite, req.ID)
	if err != nil {
		return api.Session{}, err
	}
	e, err = s.bringBack(ctx, e.Key, req.IfMatch, p.ID)
	return public(e), err
}

func (s *Service) bringBack(ctx context.Context, key bus.Key, ifMatch uint64, by string) (bus.Entry[api.SessionRecord], error) {
	return s.move(ctx, key, ifMatch, bus.Meta{Actor: by, Verb: "resume"}, func(rec *api.SessionRecord) error {
		switch rec.State {
		case api.StatePending, api.StateStarting, api.StateRunning, api.StateResuming:
			return bus.ErrUnchanged
		case api.StatePaused:
			rec.State = api.StateResuming
			rec.Restarts = 0
			nextIncarnation(rec)
			return nil
		}
		return api.Errorf(api.CodeConflict, "a session that is %s cannot be resumed", rec.State)
	})
}

// nextIncarnation prepares rec for another runner: what the last one used is added up, and what it was reached by
// is forgotten.
func nextIncarnation(rec *api.SessionRecord) {
	rec.Incarnation++
	rec.BaseUsage = rec.Usage
	rec.Report = 0
	rec.Endpoint, rec.Address, rec.EndpointKey, rec.Activity = "", "", newSecret(), ""
	if rec.BoundTo != "" {
		rec.BoundTo, rec.Node = "", ""
	}
}

// move changes a session's state as the table allows, and what goes with it. f changes a copy.
func (s *Service) move(ctx context.Context, key bus.Key, rev uint64, meta bus.Meta, f func(*api.SessionRecord) error) (bus.Entry[api.SessionRecord], error) {
	return s.sessions.UpdateAt(ctx, key, rev, meta, func(rec api.SessionRecord) (api.SessionRecord, error) {
		from := rec.State
		if err := f(&rec); err != nil {
			return rec, err
		}
		if rec.State == from {
			return rec, nil
		}
		if !mayFollow(from, rec.State) {
			return rec, api.Errorf(api.CodeConflict, "a session that is %s cannot become %s", from, rec.State)
		}
		entered(&rec, s.now().UTC())
		return rec, nil
	})
}

// entered sets what the new state of rec implies.
func entered(rec *api.SessionRecord, now time.Time) {
	rec.StateSince = now
	if rec.State != api.StateRunning {
		rec.Activity, rec.Background = "", 0
	}
	if rec.State != api.StatePausing && rec.State != api.StatePaused {
		rec.IdlePaused = false
	}
	if rec.State == api.StatePaused || rec.State.Final() {
		rec.Endpoint, rec.Address, rec.EndpointKey = "", "", ""
	}
	if rec.State.Final() {
		rec.EndedAt = &now
		rec.Env = nil // it may hold secrets that nobody needs any more
	}
}

func refOf(key bus.Key) Ref { return Ref{Tenant: key.Tenant, Session: key.ID} }
