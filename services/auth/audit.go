package auth

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
)

// The bounds of the audit ledger. What an outsider can cause without end (failed sign-ins, denials) and what a client repeats all
// day (sign-ins) is written once per window, with a count; what an administrator does is written each time.
const (
	auditQueue   = 1024             // records that wait to be written
	auditGroups  = 4096             // distinct floods followed at once
	floodWindow  = time.Minute      // of failures and denials
	signInWindow = time.Hour        // of sign-ins with one key from one address
	auditTick    = time.Second      // how often ended windows are looked for
	auditTimeout = 5 * time.Second  // of one write
	kindAudit    = api.Kind('e')    // of a record's id
	maxDetail    = 500              // bytes of a record's detail
	outcomeOK    = "ok"             // the other outcomes are error codes
	actSignIn    = "auth.exchange"  // an action is the name of an operation
	actBootstrap = "auth.bootstrap" // but for this one
)

// audit writes the audit ledger, an entity per record.
type audit struct {
	*table[api.AuditRecord]
	s       *Service
	queue   chan sighting
	dropped atomic.Int64
}

// sighting is something that may happen again and again; equal ones within the window become one record.
type sighting struct {
	flood
	window time.Duration
	quiet  bool // repetitions are not worth a second record
	rec    api.AuditRecord
}

type flood struct{ tenant, actor, action, object, outcome, detail, remote string }

type window struct {
	first sighting
	ends  time.Time
	more  int
	last  time.Time
}

func (a *audit) init(s *Service) { a.s, a.queue = s, make(chan sighting, auditQueue) }

// act writes what a principal did to object before the caller is told. The act itself is done and in its ledger's history:
// failing to record it is logged and does not undo it.
func (a *audit) act(ctx context.Context, p api.Principal, action, object, detail string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	a.write(ctx, api.AuditRecord{
		At: a.s.now(), Tenant: p.Tenant, Actor: p.ID, Action: action, Object: object, Outcome: outcomeOK, Detail: detail,
		RequestID: rpc.RequestID(ctx),
	})
}

// write is put where nobody could do anything about its failure: that is logged.
func (a *audit) write(ctx context.Context, rec api.AuditRecord) {
	if err := a.put(ctx, rec); err != nil {
		a.s.log.ErrorContext(ctx, "audit record not written", "tenant", rec.Tenant, "principal", rec.Actor, "op", rec.Action, "code", rec.Outcome, "err", err)
	}
}

func (a *audit) put(ctx context.Context, rec api.AuditRecord) error {
	if rec.Tenant == "" {
		rec.Tenant = api.HomeTenant // nobody's: the operator's
	}
	if len(rec.Detail) > maxDetail {
		rec.Detail = strings.ToValidUTF8(rec.Detail[:maxDetail], "")
	}
	key := bus.Key{Tenant: rec.Tenant, ID: api.NewID(kindAudit)}
	_, err := a.Create(ctx, key, bus.Meta{Actor: "service:auth", Verb: "record"}, rec)
	return err
}

// signedIn records a sign-in, once an hour per key and address.
func (a *audit) signedIn(ctx context.Context, p api.Principal, remote string) {
	a.see(sighting{window: signInWindow, quiet: true, rec: api.AuditRecord{
		At: a.s.now(), Tenant: p.Tenant, Actor: p.ID, Action: actSignIn, Object: p.Key, Outcome: outcomeOK,
		RemoteIP: remote, RequestID: rpc.RequestID(ctx),
	}})
}

// signInFailed records a failed sign-in with the reason that the caller is not told.
func (a *audit) signInFailed(ctx context.Context, no *refusal, remote string) {
	a.see(sighting{window: floodWindow, rec: api.AuditRecord{
		At: a.s.now(), Tenant: no.key.Tenant, Action: actSignIn, Object: no.key.ID, Outcome: string(api.CodeUnauthenticated),
		Detail: no.reason, RemoteIP: remote, RequestID: rpc.RequestID(ctx),
	}})
}

// denied is told by the server of each operation that was refused.
func (s *Service) denied(ctx context.Context, op api.OpInfo, p api.Principal, err error) {
	if op.Name() == actSignIn {
		return // recorded with its reason
	}
	s.audit.see(sighting{window: floodWindow, rec: api.AuditRecord{
		At: s.now(), Tenant: p.Tenant, Actor: p.ID, Action: op.Name(), Outcome: string(api.CodeOf(err)),
		Detail: api.Redact(err).Detail, RequestID: rpc.RequestID(ctx),
	}})
}

// recordDenial answers api.RecordDenial: what another service has refused p, or did for p.
func (s *Service) recordDenial(ctx context.Context, p api.Principal, req api.RecordDenialRequest) (api.None, error) {
	service, verb, ok := strings.Cut(req.Action, ".")
	if !ok || service == "auth" || !api.ValidName(service) || !api.ValidName(verb) {
		return api.None{}, api.Invalid("/action", "is not the name of another service's operation")
	}
	outcome := string(api.CodeDenied)
	if req.Done {
		outcome = outcomeOK
	}
	s.audit.see(sighting{window: floodWindow, rec: api.AuditRecord{
		At: s.now(), Tenant: p.Tenant, Actor: p.ID, Action: req.Action, Object: req.Object, Outcome: outcome,
		Detail: req.Detail, RequestID: rpc.RequestID(ctx),
	}})
	return api.None{}, nil
}

// recordAct answers api.RecordAct: what a service has done by itself. The caller proved by its subject which one it is. It keeps what was not
// written, and tells it again (libs/trust, Acts).
func (s *Service) recordAct(ctx context.Context, req api.RecordActRequest) (api.None, error) {
	asks, _ := api.PrincipalFrom(ctx)
	service, verb, _ := strings.Cut(req.Action, ".")
	switch {
	case asks.ID != "service:"+service || !api.ValidName(verb):
		return api.None{}, api.Invalid("/action", "is not the name of an act of the asking service")
	case !api.ValidName(req.Tenant):
		return api.None{}, api.Invalid("/tenant", "is not a tenant's name")
	}
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	return api.None{}, s.audit.put(ctx, api.AuditRecord{
		At: s.now(), Tenant: req.Tenant, Actor: asks.ID, Action: req.Action, Object: req.Object, Outcome: outcomeOK, Detail: req.Detail,
		RequestID: rpc.RequestID(ctx),
	})
}

// see queues a sighting; it never blocks.
func (a *audit) see(x sighting) {
	r := x.rec
	x.flood = flood{r.Tenant, r.Actor, r.Action, r.Object, r.Outcome, r.Detail, network(r.RemoteIP)}
	select {
	case a.queue <- x:
	default:
		a.dropped.Add(1)
	}
}

// run writes sightings until ctx ends, and then what is left. The first of a window is written at once, the others as one
// record with their number when the window ends.
func (a *audit) run(ctx context.Context) error {
	tick := time.NewTicker(auditTick)
	defer tick.Stop()
	open := map[flood]*window{}
	for {
		select {
		case x := <-a.queue:
			a.note(ctx, open, x)
		case <-tick.C:
			a.close(ctx, open, a.s.now())
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
			defer cancel()
			for len(a.queue) > 0 { // nobody adds any more: the server has ended
				a.note(last, open, <-a.queue)
			}
			a.close(last, open, a.s.now().Add(2*signInWindow))
			return nil
		}
	}
}

func (a *audit) note(ctx context.Context, open map[flood]*window, x sighting) {
	if w := open[x.flood]; w != nil && x.rec.At.Before(w.ends) {
		w.more++
		w.last = x.rec.At
		return
	} else if w != nil {
		a.closeOne(ctx, open, x.flood, w)
	}
	if len(open) >= auditGroups {
		a.dropped.Add(1)
		return
	}
	open[x.flood] = &window{first: x, ends: x.rec.At.Add(x.window)}
	a.timed(ctx, x.rec)
}

func (a *audit) close(ctx context.Context, open map[flood]*window, now time.Time) {
	for f, w := range open {
		if !now.Before(w.ends) {
			a.closeOne(ctx, open, f, w)
		}
	}
	if n := a.dropped.Swap(0); n > 0 {
		a.timed(ctx, api.AuditRecord{
			At: now, Tenant: api.HomeTenant, Action: "auth.audit", Outcome: string(api.CodeExhausted),
			Detail: fmt.Sprintf("%d sign-ins or denials were too many to record", n),
		})
	}
}

func (a *audit) closeOne(ctx context.Context, open map[flood]*window, f flood, w *window) {
	delete(open, f)
	if w.more == 0 || w.first.quiet {
		return
	}
	rec := w.first.rec
	rec.At, rec.RequestID = w.last, ""
	rec.Detail = fmt.Sprintf("%s (and %d times more until now)", rec.Detail, w.more)
	a.timed(ctx, rec)
}

func (a *audit) timed(ctx context.Context, rec api.AuditRecord) {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	a.write(ctx, rec)
}

// listAudit answers api.ListAudit: the caller's tenant, newest first.
func (s *Service) listAudit(_ context.Context, p api.Principal, req api.ListAuditRequest) (api.Page[api.AuditRecord], error) {
	index, value := byTenant, p.Tenant
	switch {
	case req.Actor != "" && req.Action != "":
		index, value = byBoth, value+"/"+req.Actor+"/"+req.Action
	case req.Actor != "":
		index, value = byActor, value+"/"+req.Actor
	case req.Action != "":
		index, value = byAction, value+"/"+req.Action
	}
	return page(s.audit.view, index, value, req.List, nil, func(e bus.Entry[api.AuditRecord]) api.AuditRecord {
		rec := e.State
		rec.Seq = e.Rev
		return rec
	})
}
