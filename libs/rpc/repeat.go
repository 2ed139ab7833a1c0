package rpc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"reflect"
	"strings"
	"time"

	"github.com/go-kit/kit/endpoint"

	"agentyard.dev/libs/api"
)

// The bus hands a request to one instance of a service. One that dies with it, or whose machine falls off the network, leaves the caller waiting until its
// deadline, although another instance could answer. So a question that may be asked twice is asked again, of whichever instance the bus
// chooses, after some silence, and the first answer counts: what reads, what carries an idempotency key, and what says of itself that it is
// Repeatable. Anything else is asked once, because nobody can tell whether it was done.
const (
	// repeatAfter is longer than nearly all operations take, so that an instance that is only slow is not given its work twice.
	repeatAfter = 3 * time.Second
	// maxAsks is how often one question is asked. With half of the instances silent, one in 32 meets only those.
	maxAsks = 5
	// maxRepeating bounds a client's questions that were asked again: a service that is slow because it has too much to do gets little more.
	maxRepeating = 64
	// Who gives a service longer than longWait waits for something to happen. That is asked once more only, and has places of its own, or a few of them would
	// hold all.
	longWait = time.Minute
	maxWaits = 256
)

// repeatable reports whether the request may be asked of its operation twice.
func repeatable(info api.OpInfo, req reflect.Value) bool {
	return !info.Waits && (info.Repeatable || strings.HasPrefix(info.Route, "GET ") || keyed(req))
}

// keyed reports whether a request carries an idempotency key that its operation itself sees to.
func keyed(req reflect.Value) bool {
	if req.Kind() != reflect.Struct {
		return false
	}
	f := req.FieldByName(keyField)
	return f.Kind() == reflect.String && f.Len() > 0
}

// keyField is how requests name their idempotency key.
const keyField = "IdempotencyKey"

// FreshKey returns an idempotency key for a request that has come without one.
func FreshKey() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return "edge-" + hex.EncodeToString(b[:])
}

// repeat asks what may be asked twice again while nobody answers.
func (c *Client) repeat(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, request any) (any, error) {
		if !request.(*ask).repeatable {
			return next(ctx, request)
		}
		return c.asked(ctx, func(ctx context.Context) (any, error) { return next(ctx, request) })
	}
}

// asked calls do, and again after each silence, and returns the first answer. That an instance, or all that could be found, cannot answer now
// is none while another may.
func (c *Client) asked(ctx context.Context, do func(context.Context) (any, error)) (any, error) {
	type outcome struct {
		out any
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	outcomes := make(chan outcome, c.asks)
	asks, pending, most, places := 0, 0, c.asks, c.repeats
	if t, ok := ctx.Deadline(); ok && time.Until(t) > longWait {
		most, places = min(most, 2), c.waits
	}
	ask := func() {
		asks++
		pending++
		go func() {
			out, err := do(ctx)
			outcomes <- outcome{out, err}
		}()
	}
	defer func() {
		for cancel(); pending > 0; pending-- {
			<-outcomes
		}
		for ; asks > 1; asks-- {
			<-places
		}
	}()
	ask()
	silence := time.NewTimer(c.silence)
	defer silence.Stop()
	for {
		select {
		case o := <-outcomes:
			pending--
			if o.err == nil || pending == 0 || !elsewhere(o.err) {
				return o.out, o.err
			}
		case <-silence.C:
			if asks < most && take(places) {
				ask()
			}
			silence.Reset(c.silence)
		}
	}
}

// elsewhere reports whether another instance may answer where one did not.
func elsewhere(err error) bool {
	code := api.CodeOf(err)
	return code == api.CodeUnavailable || code == api.CodeExhausted
}
