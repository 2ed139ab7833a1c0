package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
)

const (
	// answerLife is how long the first answer is repeated.
	answerLife = 24 * time.Hour
	// claimLife is how long a claim without an answer stands. It is longer than any operation takes, so
	// a claim that is older belongs to a gateway that died.
	claimLife = 3 * time.Minute
	// maxAnswer bounds what is kept of one answer; a larger one is not repeated.
	maxAnswer = 64 << 10
	keepTime  = 5 * time.Second // to keep an answer, whatever became of the request
)

// answer is what the IDEMPOTENCY ledger keeps under a principal's key: a claim while the first request is at work, then its answer.
type answer struct {
	Request  string          `json:"request"` // hash of what was asked
	Done     bool            `json:"done,omitempty"`
	TooLarge bool            `json:"too_large,omitempty"`
	Revision uint64          `json:"revision,omitempty"`
	Body     json.RawMessage `json:"body,omitempty"`
	// Sealed stands for Body where the answer shows a secret: it opens only with the credential that asked.
	Sealed  []byte    `json:"sealed,omitempty"`
	Claimed time.Time `json:"claimed"`
}

// idempotency implements rpc.Idempotency on a ledger, so that a repeat finds the first answer on any replica.
type idempotency struct {
	log    *slog.Logger
	ledger atomic.Pointer[bus.Ledger[answer]]
}

// sealing is what the operation's answer is sealed with, if it shows a secret.
type sealing struct{ credential string }

type sealingKey struct{}

// Do implements rpc.Idempotency.
func (i *idempotency) Do(ctx context.Context, key rpc.IdempotencyKey, do func(context.Context) (rpc.Answer, error)) (rpc.Answer, error) {
	l := i.ledger.Load()
	if l == nil {
		return rpc.Answer{}, &api.Error{Code: api.CodeUnavailable, Detail: "the gateway is starting; try again", RetryAfter: retrySoon}
	}
	k := bus.Key{Tenant: key.Tenant, ID: key.ID}
	claim, first, err := i.claim(ctx, l, k, key.Request)
	if err != nil {
		return rpc.Answer{}, err
	}
	if first != nil {
		return i.replay(ctx, key, *first)
	}
	got, err := do(ctx)

	// The request's own deadline may have passed; what happened is kept in any case.
	kctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTime)
	defer cancel()
	if err != nil {
		// Nothing was done that a repeat must not do again, or nobody knows: operations are conditional.
		if derr := l.Delete(kctx, k, claim, bus.Meta{Actor: "service:gateway", Verb: "release"}); derr != nil {
			i.log.Warn("release idempotency key", "tenant", key.Tenant, "err", derr)
		}
		return rpc.Answer{}, err
	}
	kept, err := i.keep(ctx, key, got)
	if err == nil {
		_, err = l.UpdateAt(kctx, k, claim, bus.Meta{Actor: "service:gateway", Verb: "answer"}, func(answer) (answer, error) { return kept, nil })
	}
	if err != nil {
		i.log.Warn("keep answer for its idempotency key", "tenant", key.Tenant, "err", err)
	}
	return got, nil
}

// claim takes the key for this request and returns the claim's revision, or the first request's answer.
func (i *idempotency) claim(ctx context.Context, l *bus.Ledger[answer], k bus.Key, request string) (rev uint64, first *answer, err error) {
	meta := bus.Meta{Actor: "service:gateway", Verb: "claim"}
	fresh := answer{Request: request, Claimed: time.Now()}
	e, err := l.Create(ctx, k, meta, fresh)
	if err == nil {
		return e.Rev, nil, nil
	}
	if api.CodeOf(err) != api.CodeConflict {
		return 0, nil, fmt.Errorf("claim idempotency key: %w", err)
	}
	busy := &api.Error{Code: api.CodeConflict, Detail: "a request with the same Idempotency-Key is at work; try again", RetryAfter: retrySoon}
	e, err = l.Get(ctx, k)
	switch {
	case api.CodeOf(err) == api.CodeNotFound:
		return 0, nil, busy // released just now
	case err != nil:
		return 0, nil, fmt.Errorf("read idempotency key: %w", err)
	case e.State.Request != request:
		return 0, nil, api.Errorf(api.CodeConflict, "the Idempotency-Key was used for another request; use a new one")
	case e.State.Done:
		return 0, &e.State, nil
	case time.Since(e.State.Claimed) < claimLife:
		return 0, nil, busy
	}
	e, err = l.UpdateAt(ctx, k, e.Rev, meta, func(answer) (answer, error) { return fresh, nil })
	if err != nil {
		return 0, nil, busy
	}
	return e.Rev, nil, nil
}

func (i *idempotency) keep(ctx context.Context, key rpc.IdempotencyKey, got rpc.Answer) (answer, error) {
	kept := answer{Request: key.Request, Done: true, Revision: got.Revision, Claimed: time.Now()}
	switch s, secret := ctx.Value(sealingKey{}).(sealing); {
	case len(got.Body) > maxAnswer:
		kept.TooLarge = true
	case secret:
		sealed, err := seal(sealKey("answer "+key.ID, []byte(s.credential)), got.Body)
		if err != nil {
			return answer{}, err
		}
		kept.Sealed = sealed
	default:
		kept.Body = got.Body
	}
	return kept, nil
}

var errNotRepeatable = api.Errorf(api.CodeConflict, "the request with this Idempotency-Key was done; its answer cannot be shown again")

func (i *idempotency) replay(ctx context.Context, key rpc.IdempotencyKey, first answer) (rpc.Answer, error) {
	if first.TooLarge {
		return rpc.Answer{}, errNotRepeatable
	}
	body := first.Body
	if len(first.Sealed) > 0 {
		s, _ := ctx.Value(sealingKey{}).(sealing)
		var err error
		if body, err = unseal(sealKey("answer "+key.ID, []byte(s.credential)), first.Sealed); err != nil {
			return rpc.Answer{}, errors.Join(errNotRepeatable, err)
		}
	}
	return rpc.Answer{Revision: first.Revision, Body: body, Replayed: true}, nil
}
