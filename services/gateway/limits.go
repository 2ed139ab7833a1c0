package gateway

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/limit"
)

const (
	retrySoon = time.Second
	// failureCost is what a refused credential takes from its address's bucket beside the request itself, so that
	// guessing ends long before ordinary use would.
	failureCost = 20
)

// allowAddress takes one request from the bucket of the remote address, before anything is known of the caller.
func (g *Gateway) allowAddress(ctx context.Context, ip string) error {
	d := g.deps.Local.Take(ctx, addressBucket(ip), 1, g.cfg.AddressRate)
	if d.Allowed {
		return nil
	}
	g.metrics.limited.WithLabelValues("address").Inc()
	return &api.Error{Code: api.CodeExhausted, Detail: "too many requests from this address; slow down", RetryAfter: d.RetryAfter}
}

// chargeFailure makes a refused credential dear.
func (g *Gateway) chargeFailure(ctx context.Context, ip string, err error) {
	if api.CodeOf(err) != api.CodeUnauthenticated {
		return
	}
	bucket := addressBucket(ip)
	if d := g.deps.Local.Take(ctx, bucket, failureCost, g.cfg.AddressRate); !d.Allowed {
		g.deps.Local.Take(ctx, bucket, d.Remaining, g.cfg.AddressRate) // less is left: that goes
	}
}

// addressBucket names the bucket of a client's address. All of the /64 that one subscriber of IPv6 has is one: else each of its 2⁶⁴ addresses
// would have a bucket of its own.
func addressBucket(ip string) string {
	if addr, err := netip.ParseAddr(ip); err == nil && addr.Is6() {
		if addr = addr.Unmap(); addr.Is4() {
			ip = addr.String()
		} else if p, err := addr.WithZone("").Prefix(64); err == nil {
			ip = p.String()
		}
	}
	return "addr/" + ip
}

// allowPrincipal takes one request from the principal's bucket in l and writes the RateLimit headers.
func (g *Gateway) allowPrincipal(ctx context.Context, h http.Header, l limit.Limiter, c *caller) error {
	d := l.Take(ctx, c.bucket, 1, g.cfg.PrincipalRate)
	h["Ratelimit-Limit"] = []string{strconv.Itoa(d.Limit)}
	h["Ratelimit-Remaining"] = []string{strconv.Itoa(d.Remaining)}
	h["Ratelimit-Reset"] = []string{strconv.Itoa(int(math.Ceil(d.Reset.Seconds())))}
	if d.Allowed {
		return nil
	}
	g.metrics.limited.WithLabelValues("principal").Inc()
	return &api.Error{Code: api.CodeExhausted, Detail: "too many requests; slow down, see the RateLimit headers", RetryAfter: d.RetryAfter}
}

// bound refuses a body that says it is larger than limit and cuts off one that turns out to be, and gives each read of
// it a deadline, so that a client that sends nothing holds nothing.
func bound(w http.ResponseWriter, r *http.Request, limit int64) error {
	if r.ContentLength > limit {
		// The rest is not read: the connection ends with the answer.
		w.Header().Set("Connection", "close")
		return tooLarge(limit)
	}
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	r.Body = &timedBody{rc: http.NewResponseController(w), body: http.MaxBytesReader(w, r.Body, limit)}
	return nil
}

// errTooLarge is the cause of every 413.
var errTooLarge = errors.New("body too large")

func tooLarge(limit int64) error {
	return &api.Error{Code: api.CodeInvalid, Detail: "the body is larger than " + strconv.FormatInt(limit, 10) + " bytes", Cause: errTooLarge}
}

// timedBody gives each read of a request's body its own deadline, and none to what follows the body.
type timedBody struct {
	rc   *http.ResponseController
	body io.ReadCloser
}

func (b *timedBody) Read(p []byte) (int, error) {
	_ = b.rc.SetReadDeadline(time.Now().Add(bodyReadTimeout))
	n, err := b.body.Read(p)
	if err != nil {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

func (b *timedBody) Close() error {
	_ = b.rc.SetReadDeadline(time.Time{})
	return b.body.Close()
}
