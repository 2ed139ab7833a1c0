package gateway

import (
	"context"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
)

const (
	// wakeTimeout is how long a request to a session that was put aside is held. Coming back takes less than 2 s where there is room for it; a node that has
	// to fetch the image first takes longer, and a client that waits is better served than one that has to ask again.
	wakeTimeout = 30 * time.Second
	// maxHeld bounds the requests that are held.
	maxHeld = 1024
)

// awake returns where the session serves. One that was put aside is brought back, as by a message, if the caller may write to it, and the request
// is held until it runs. Whoever only wants to know how a session is asks GET /api/v1/sessions/{id}, which wakes nobody.
func (g *Gateway) awake(ctx context.Context, c *caller, r *row) (endpoint, error) {
	to, err := r.reach()
	if err == nil || !asleep(r.rec.State) || !c.CanOn(api.SessionWrite, r.key.Tenant, r.rec.Owner) {
		return to, err
	}
	select {
	case g.held <- struct{}{}:
		defer func() { <-g.held }()
	default:
		return endpoint{}, &api.Error{Code: api.CodeExhausted, Detail: "many requests wait for sessions that come back; try again in a moment", RetryAfter: retrySoon}
	}
	ctx, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	now, err := g.table.await(ctx, r.key, func(now *row) bool { return now.rec.State != api.StatePausing })
	if err == nil && now.rec.State == api.StatePaused {
		asking := token.WithRaw(api.WithPrincipal(ctx, c.Principal), c.raw)
		if _, err := rpc.Call(asking, g.rpc, api.ResumeSession, api.SessionRef{ID: r.key.ID}); err != nil {
			return endpoint{}, err
		}
		// What is seen of it may be older than the answer.
		now, err = g.table.await(ctx, r.key, func(now *row) bool { return now.rec.State != api.StatePaused })
	}
	if err == nil {
		now, err = g.table.await(ctx, r.key, func(now *row) bool { return !asleep(now.rec.State) })
	}
	if err != nil {
		return endpoint{}, &api.Error{Code: api.CodeUnavailable, Detail: "the session has not come back yet; try again", RetryAfter: retrySoon, Cause: err}
	}
	return now.reach()
}

// asleep reports whether a session in state s was put aside and has not come back.
func asleep(s api.State) bool {
	return s == api.StatePausing || s == api.StatePaused || s == api.StateResuming
}

// await waits until ok of a session, or ctx ends.
func (t *table) await(ctx context.Context, key bus.Key, ok func(*row) bool) (*row, error) {
	var now *row
	_, err := t.view.Wait(ctx, key, func(e bus.Entry[api.SessionRecord]) bool {
		now = newRow(e)
		return ok(now)
	})
	return now, err
}
