package trust

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
)

const (
	// denialQueue bounds the denials that wait to be told; auth writes equal ones as one record anyway.
	denialQueue = 256
	// denialTimeout bounds one telling: an absent auth is not waited for.
	denialTimeout = 5 * time.Second
)

// Denials tells auth what this service has refused, for the audit ledger:
//
//	denials := trust.NewDenials(client, logger)
//	d.Add("denials", denials.Run)
//	rpc.ServerConfig{…, Denied: denials.Denied}
//
// Only callers whose token is good are told of: auth takes the actor from that token, so no service can speak for another.
// What cannot be told in time is dropped and counted in the log.
type Denials struct {
	client  *rpc.Client
	logger  *slog.Logger
	queue   chan denial
	dropped atomic.Int64
}

type denial struct {
	raw, requestID string
	req            api.RecordDenialRequest
}

// NewDenials returns a teller that asks through client.
func NewDenials(client *rpc.Client, logger *slog.Logger) *Denials {
	return &Denials{client: client, logger: logger, queue: make(chan denial, denialQueue)}
}

// Denied is for rpc.ServerConfig.Denied. It never blocks.
func (d *Denials) Denied(ctx context.Context, op api.OpInfo, p api.Principal, err error) {
	raw := token.Raw(ctx)
	if raw == "" || p.ID == "" || api.CodeOf(err) != api.CodeDenied {
		return
	}
	select {
	case d.queue <- denial{raw, rpc.RequestID(ctx), api.RecordDenialRequest{Action: op.Name(), Detail: api.Redact(err).Detail}}:
	default:
		d.dropped.Add(1)
	}
}

// Acted tells of what the caller has done to object, for acts that belong into the audit log. It never blocks.
func (d *Denials) Acted(ctx context.Context, op api.OpInfo, object string) {
	raw := token.Raw(ctx)
	if raw == "" {
		return
	}
	select {
	case d.queue <- denial{raw, rpc.RequestID(ctx), api.RecordDenialRequest{Action: op.Name(), Object: object, Done: true}}:
	default:
		d.dropped.Add(1)
	}
}

// Run tells until ctx ends.
func (d *Denials) Run(ctx context.Context) error {
	for {
		select {
		case x := <-d.queue:
			d.tell(ctx, x)
		case <-ctx.Done():
			return nil
		}
		if n := d.dropped.Swap(0); n > 0 {
			d.logger.WarnContext(ctx, "denials were too many to record", "count", n)
		}
	}
}

func (d *Denials) tell(ctx context.Context, x denial) {
	ctx, cancel := context.WithTimeout(rpc.WithRequestID(token.WithRaw(ctx, x.raw), x.requestID), denialTimeout)
	defer cancel()
	if _, err := rpc.Call(ctx, d.client, api.RecordDenial, x.req); err != nil && ctx.Err() == nil {
		d.logger.WarnContext(ctx, "denial not recorded", "op", x.req.Action, "code", api.CodeOf(err), "err", err)
	}
}
