package sessions

import (
	"context"
	"fmt"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// sweptKinds are what passed times do to sessions.
var sweptKinds = []api.SweepKind{api.SweepSessionTTL, api.SweepSessionIdle, api.SweepSessionStart, api.SweepSessionEnded}

// swept counts and tells what a passed time did to a session.
func (s *Service) swept(key bus.Key, due api.SweepItem) {
	s.metrics.swept.WithLabelValues(string(due.Kind)).Inc()
	s.log.Info("swept", "op", "sweep", "kind", due.Kind, "tenant", key.Tenant, "session", key.ID, "reason", due.Reason)
	s.did(key, due.Reason)
}

// did tells the audit log what the service did to a session by itself.
func (s *Service) did(key bus.Key, why string) {
	if s.deps.Did != nil {
		s.deps.Did(key.Tenant, "sessions.sweep", key.ID, why)
	}
}

// item is an overdue for a person: what becomes of the session, why and since when; ok is false when nothing does.
func (o overdue) item(cfg Config, rec *api.SessionRecord) (item api.SweepItem, ok bool) {
	switch o {
	case startOverdue:
		item = api.SweepItem{Kind: api.SweepSessionStart, Reason: fmt.Sprintf("it did not run within %s", cfg.StartTimeout), Since: rec.StateSince.Add(cfg.StartTimeout)}
	case ttlOverdue:
		item = api.SweepItem{Kind: api.SweepSessionTTL, Reason: fmt.Sprintf("its ttl of %s has passed", rec.TTL), Since: rec.CreatedAt.Add(rec.TTL.D())}
	case idleOverdue:
		item = api.SweepItem{Kind: api.SweepSessionIdle, Reason: fmt.Sprintf("it was idle for %s", rec.IdleTimeout), Since: rec.LastActiveAt.Add(rec.IdleTimeout.D())}
	case retentionOverdue:
		item = api.SweepItem{Kind: api.SweepSessionEnded, Reason: fmt.Sprintf("it has ended and was kept for %s", cfg.Retention), Since: rec.EndedAt.Add(cfg.Retention)}
	default:
		return item, false
	}
	item.Tenant, item.ID = rec.Tenant, rec.ID
	return item, true
}

// sweepNow answers api.SweepSessions. What is due is handed to the replica that reconciles, this one or another, which looks at it
// every few seconds anyway. Only that one knows what is orphaned.
func (s *Service) sweepNow(ctx context.Context, req api.SweepRequest) (api.SweepReport, error) {
	now := s.now()
	report := api.SweepReport{DryRun: req.DryRun, Counts: map[api.SweepKind]int{}, Items: []api.SweepItem{}}
	var due []bus.Key
	s.view.All(func(e bus.Entry[api.SessionRecord]) bool {
		if item, ok := overdueAt(s.cfg, &e.State, now).item(s.cfg, &e.State); ok {
			report.Add(item)
			due = append(due, e.Key)
		}
		return true
	})
	switch {
	case !req.DryRun:
		for _, key := range due {
			s.enqueue(key)
		}
	case s.term.Load() == nil:
		report.Problems = append(report.Problems, "orphans were not looked for: another replica knows what runs; ask again")
	default:
		found, err := s.findOrphans(ctx)
		if err != nil {
			report.Problems = append(report.Problems, "not all orphans were looked for: "+api.Redact(err).Detail)
		}
		for f := range found {
			if f.kind != orphanStuck { // waits for its time
				report.Add(api.SweepItem{Kind: api.SweepSessionOrphan, Tenant: f.key.Tenant, ID: f.key.ID, Reason: "orphan: " + f.kind, Since: now})
			}
		}
	}
	return report, nil
}
