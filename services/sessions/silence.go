package sessions

import (
	"context"
	"fmt"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// A runner reports every ten seconds, and while its agent works the ledger shows it every minute (activeEvery). One that hangs, or whose machine
// does, is neither seen to end nor heard: after Config.Silence another takes its place, like that of one that died. Sessions that wait
// for a person are not looked at: nothing is lost while nothing is done.

// silentAt reports whether a session's runner should have been heard. Only time counts in which this replica could have heard it, which is since then.
func silentAt(cfg Config, e *bus.Entry[api.SessionRecord], then, now time.Time) bool {
	return cfg.Silence > 0 && e.State.State == api.StateRunning && e.State.Activity == api.ActivityWorking &&
		now.Sub(e.At) >= cfg.Silence && now.Sub(then) >= cfg.Silence
}

// listen notes, at each sweep, whether runners can be heard.
func (s *Service) listen(ctx context.Context) {
	if s.deps.Conn.Ready(ctx) != nil {
		now := s.now()
		s.hearing.Store(&now)
	}
}

// replaceSilent puts another runner in the place of one that is not heard.
func (s *Service) replaceSilent(ctx context.Context, e bus.Entry[api.SessionRecord]) (done bool, err error) {
	if then := s.hearing.Load(); then == nil || !silentAt(s.cfg, &e, *then, s.now()) {
		return false, nil
	}
	return true, s.restart(ctx, e, fmt.Sprintf("it was silent for %s", s.cfg.Silence), false)
}
