package scheduler

import (
	"context"
	"fmt"
	"sync"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// children knows which blocked tasks wait for a task.
type children struct {
	mu sync.Mutex
	by map[bus.Key]map[bus.Key]struct{}
}

func newChildren() *children { return &children{by: map[bus.Key]map[bus.Key]struct{}{}} }

func (c *children) add(child bus.Entry[api.TaskRecord]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range child.State.DependsOn {
		parent := keyIn(child.Key.Tenant, id)
		if c.by[parent] == nil {
			c.by[parent] = map[bus.Key]struct{}{}
		}
		c.by[parent][child.Key] = struct{}{}
	}
}

// of returns the tasks that wait for parent, or did.
func (c *children) of(parent bus.Key) []bus.Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	keys := make([]bus.Key, 0, len(c.by[parent]))
	for key := range c.by[parent] {
		keys = append(keys, key)
	}
	delete(c.by, parent) // it has ended, or ends for them now
	return keys
}

func (c *children) drop(parent bus.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.by, parent)
}

// unblock decides what becomes of a blocked task: it is queued when all that it depends on have succeeded, or have ended and it does not mind;
// it ends when one did not succeed and it does.
func (s *Service) unblock(ctx context.Context, e bus.Entry[api.TaskRecord]) {
	open, bad := false, ""
	for _, id := range e.State.DependsOn {
		parent, ok := s.view.Get(keyIn(e.Key.Tenant, id))
		switch {
		case !ok:
			bad = fmt.Sprintf("the task %s, which it depends on, is no longer kept", id)
		case !parent.State.State.Final():
			open = true
			s.children.add(e) // in case it was asked for before
		case parent.State.State != api.TaskSucceeded && bad == "":
			bad = fmt.Sprintf("the task %s, which it depends on, has %s", id, parent.State.State)
		}
	}
	ignore := e.State.OnFailure == api.ParentRun
	if open && (bad == "" || ignore) {
		return
	}
	_, err := s.change(ctx, e.Key, bus.Meta{Actor: actor, Verb: "unblock", Reason: bad}, func(_ bus.Entry[api.TaskRecord], rec *api.TaskRecord) error {
		switch {
		case rec.State != api.TaskBlocked:
			return bus.ErrUnchanged
		case bad == "" || ignore:
			rec.State, rec.QueuedAt = api.TaskQueued, s.now().UTC()
		case rec.OnFailure == api.ParentCancel:
			s.end(rec, api.TaskCancelled, bad)
		default:
			s.end(rec, api.TaskFailed, bad)
		}
		return nil
	})
	if err != nil && ctx.Err() == nil && api.CodeOf(err) != api.CodeNotFound {
		s.log.WarnContext(ctx, "task not unblocked; it is tried again", "tenant", e.Key.Tenant, "task", e.Key.ID, "code", api.CodeOf(err), "err", err)
		s.shardOf(e.State.Queue).look(e.Key)
	}
}
