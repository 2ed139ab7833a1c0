package sessions

import (
	"context"
	"strings"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// list returns the caller's sessions, or the tenant's to whoever may read them, newest first. It costs what it visits of the owner's
// (or the tenant's) sessions, never another's.
func (s *Service) list(ctx context.Context, req api.ListSessionsRequest) (api.Page[api.Session], error) {
	page := api.Page[api.Session]{Items: []api.Session{}}
	p, _ := api.PrincipalFrom(ctx)
	limit, err := req.Bound()
	if err != nil {
		return page, err
	}
	before, err := api.DecodeCursor(cursorSessions, req.Cursor)
	if err != nil {
		return page, err
	}
	keep, err := filter(req)
	if err != nil {
		return page, err
	}
	index, value := indexTenant, p.Tenant
	switch {
	case req.Owner != "" && (req.Owner == p.ID || p.Can(api.SessionRead.Any())):
		index, value = indexOwner, ownerValue(p.Tenant, req.Owner)
	case req.Owner != "":
		return page, nil // another's, of which the caller may know nothing
	case !p.Can(api.SessionRead.Any()):
		index, value = indexOwner, ownerValue(p.Tenant, p.ID)
	}
	entries := s.view.List(index, value, before, limit+1, keep)
	if len(entries) > limit {
		entries = entries[:limit]
		page.NextCursor = api.EncodeCursor(cursorSessions, entries[limit-1].Created)
	}
	for _, e := range entries {
		page.Items = append(page.Items, public(e))
	}
	return page, nil
}

// filter returns what a list request keeps; nil keeps all.
func filter(req api.ListSessionsRequest) (func(bus.Entry[api.SessionRecord]) bool, error) {
	if req.State != "" && !req.State.Final() && follows[req.State] == nil {
		return nil, api.Invalid("/state", "there is no state %q", clip(string(req.State), 40))
	}
	if len(req.Label) > maxLabels {
		return nil, api.Invalid("/label", "at most %d labels can be asked for", maxLabels)
	}
	if len(req.Query) > maxTitle {
		return nil, api.Invalid("/q", "must be at most %d bytes", maxTitle)
	}
	labels := map[string]string{}
	for _, l := range req.Label {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, api.Invalid("/label", "must be key=value")
		}
		if was, twice := labels[k]; twice && was != v {
			return func(bus.Entry[api.SessionRecord]) bool { return false }, nil // no session has both
		}
		labels[k] = v
	}
	query := strings.ToLower(req.Query)
	if req.State == "" && len(labels) == 0 && query == "" {
		return nil, nil
	}
	return func(e bus.Entry[api.SessionRecord]) bool {
		rec := &e.State
		if req.State != "" && rec.State != req.State {
			return false
		}
		for k, v := range labels {
			if got, ok := rec.Labels[k]; !ok || got != v {
				return false
			}
		}
		return query == "" || strings.Contains(rec.ID, query) || strings.Contains(strings.ToLower(rec.Title), query)
	}, nil
}

func (s *Service) get(ctx context.Context, req api.SessionRef) (api.Session, error) {
	e, _, err := s.find(ctx, api.SessionRead, req.ID)
	if err != nil {
		return api.Session{}, err
	}
	return public(e), nil
}

func (s *Service) history(ctx context.Context, req api.HistoryRequest) (api.Page[api.Change[api.Session]], error) {
	page := api.Page[api.Change[api.Session]]{Items: []api.Change[api.Session]{}}
	e, _, err := s.find(ctx, api.SessionRead, req.ID)
	if err != nil {
		return page, err
	}
	limit, err := req.Bound()
	if err != nil {
		return page, err
	}
	after, err := api.DecodeCursor(cursorHistory, req.Cursor)
	if err != nil {
		return page, err
	}
	changes, err := s.sessions.History(ctx, e.Key, after, limit+1)
	if err != nil {
		return page, err
	}
	if len(changes) > limit {
		changes = changes[:limit]
		page.NextCursor = api.EncodeCursor(cursorHistory, changes[limit-1].Rev)
	}
	for _, c := range changes {
		state := c.State.Session
		state.Rev = c.Rev
		page.Items = append(page.Items, api.Change[api.Session]{
			Rev: c.Rev, At: c.At, Actor: c.Actor, Verb: c.Verb, Reason: c.Reason, Deleted: c.Deleted, State: state,
		})
	}
	return page, nil
}
