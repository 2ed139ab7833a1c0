package webhook

import (
	"bytes"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

const (
	// perEndpoint is how many deliveries are under way to one webhook; one while its last attempt failed. So a receiver that hangs holds
	// no more than that of maxInFlight.
	perEndpoint = 4
	maxInFlight = 512
	// A delivery is tried maxAttempts times, backoffMin after the first failure and twice as long after each, up to backoffMax: over about
	// four hours.
	maxAttempts = 12
	backoffMin  = 5 * time.Second
	backoffMax  = time.Hour
	// A webhook whose attempts fail one after the other is left alone for pauseMin, doubled up to pauseMax, whatever waits for it.
	pauseMin = time.Second
	pauseMax = time.Minute
	// settle bounds the write of an attempt's outcome.
	settle = 15 * time.Second
	idle   = time.Minute // how long the sender sleeps at most
)

// backoff returns how long after attempt n (1, 2, …) the next one comes, with jitter.
func backoff(n int) time.Duration {
	d := min(backoffMin<<min(n-1, 20), backoffMax)
	return d/2 + rand.N(d) //nolint:gosec // jitter
}

// sender holds what is pending in memory, by webhook, and sends it. Only run touches endpoints.
type sender struct {
	s         *Service
	endpoints map[bus.Key]*endpoint
	inFlight  int

	mu      sync.Mutex
	leading bool
	touched map[bus.Key]bool // deliveries that changed; only while leading
	hooks   map[bus.Key]bool // webhooks that changed
	ended   []outcome
	wake    chan struct{}
}

// endpoint is one webhook's queue.
type endpoint struct {
	waiting  waiting
	at       map[bus.Key]*wait // by delivery
	busy     map[bus.Key]bool
	failures int // of attempts, in a row
	free     time.Time
}

// outcome is how an attempt ended.
type outcome struct {
	webhook, delivery bus.Key
	at                time.Time // of the answer: when its writing is known is another time
	failed            bool
}

func newSender(s *Service) *sender {
	return &sender{s: s, touched: map[bus.Key]bool{}, hooks: map[bus.Key]bool{}, wake: make(chan struct{}, 1)}
}

func (q *sender) tell(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.leading {
		return // whoever leads begins with all that is pending
	}
	f()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *sender) deliveryChanged(key bus.Key) { q.tell(func() { q.touched[key] = true }) }
func (q *sender) webhookChanged(key bus.Key)  { q.tell(func() { q.hooks[key] = true }) }

// run sends until ctx ends.
func (q *sender) run(ctx context.Context) {
	q.endpoints, q.inFlight = map[bus.Key]*endpoint{}, 0
	q.mu.Lock()
	q.leading = true
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.leading, q.ended = false, nil
		clear(q.touched)
		clear(q.hooks)
	}()
	var attempts sync.WaitGroup
	defer attempts.Wait()
	var first []bus.Key
	q.s.view.All(func(e bus.Entry[api.DeliveryRecord]) bool {
		if e.State.State == api.DeliveryPending {
			first = append(first, e.Key)
		}
		return true
	})
	for _, key := range first {
		q.place(key)
	}
	for ctx.Err() == nil {
		q.take()
		sleep := q.start(ctx, &attempts)
		timer, stop := q.s.deps.Clock.After(sleep)
		select {
		case <-timer:
		case <-q.wake:
		case <-ctx.Done():
		}
		stop()
	}
}

// take brings the queues up to date with what was told.
func (q *sender) take() {
	q.mu.Lock()
	ended := q.ended
	q.ended = nil
	touched, hooks := q.touched, q.hooks
	q.touched, q.hooks = map[bus.Key]bool{}, map[bus.Key]bool{}
	q.mu.Unlock()
	for _, o := range ended {
		q.inFlight--
		e := q.endpoints[o.webhook]
		delete(e.busy, o.delivery)
		if !o.failed {
			e.failures, e.free = 0, time.Time{}
		} else {
			e.free = o.at.Add(min(pauseMin<<min(e.failures, 10), pauseMax))
			e.failures++
		}
		q.place(o.delivery)
	}
	for key := range touched {
		q.place(key)
	}
	for key := range hooks {
		if e := q.endpoints[key]; e != nil {
			e.failures, e.free = 0, time.Time{} // it may have a new address
		}
	}
}

// place puts a delivery where the ledger's view says that it belongs.
func (q *sender) place(key bus.Key) {
	d, ok := q.s.view.Get(key)
	if !ok {
		return
	}
	hook := bus.Key{Tenant: key.Tenant, ID: d.State.Webhook}
	e := q.endpoints[hook]
	if e == nil {
		if d.State.State != api.DeliveryPending {
			return
		}
		e = &endpoint{at: map[bus.Key]*wait{}, busy: map[bus.Key]bool{}}
		q.endpoints[hook] = e
	}
	if e.busy[key] {
		return // its outcome places it
	}
	if w := e.at[key]; w != nil {
		heap.Remove(&e.waiting, w.index)
		delete(e.at, key)
	}
	if d.State.State == api.DeliveryPending && d.State.NextAt != nil {
		w := &wait{key: key, at: *d.State.NextAt}
		e.at[key] = w
		heap.Push(&e.waiting, w)
	} else if len(e.at) == 0 && len(e.busy) == 0 && e.failures == 0 {
		delete(q.endpoints, hook)
	}
}

// start begins the attempts that are due, and returns how long there are no others.
func (q *sender) start(ctx context.Context, attempts *sync.WaitGroup) time.Duration {
	now, sleep := q.s.deps.Clock.Now(), idle
	for hook, e := range q.endpoints {
		most := perEndpoint
		if e.failures > 0 {
			most = 1
		}
		for len(e.waiting) > 0 && len(e.busy) < most {
			next := e.waiting[0]
			if until := max(next.at.Sub(now), e.free.Sub(now)); until > 0 {
				sleep = min(sleep, until)
				break
			}
			if q.inFlight >= maxInFlight {
				return sleep // an outcome wakes
			}
			heap.Pop(&e.waiting)
			delete(e.at, next.key)
			e.busy[next.key] = true
			q.inFlight++
			attempts.Go(func() {
				at, failed := q.attempt(ctx, next.key)
				q.mu.Lock()
				q.ended = append(q.ended, outcome{webhook: hook, delivery: next.key, at: at, failed: failed})
				q.mu.Unlock()
				select {
				case q.wake <- struct{}{}:
				default:
				}
			})
		}
	}
	return sleep
}

// attempt sends a delivery once and writes what came of it. It reports when the answer came, and whether the webhook failed.
func (q *sender) attempt(ctx context.Context, key bus.Key) (at time.Time, failed bool) {
	s := q.s
	d, ok := s.view.Get(key)
	if !ok || d.State.State != api.DeliveryPending {
		return at, false
	}
	hook, ok := s.byName.Get(bus.Key{Tenant: key.Tenant, ID: d.State.Webhook})
	var r answer
	switch {
	case !ok:
		r = answer{err: errors.New("the webhook was deleted"), final: true}
	case hook.State.Disabled:
		r = answer{err: errors.New("the webhook is disabled"), final: true}
	default:
		r = s.send(ctx, hook.State, d.State)
		failed = r.err != nil
	}
	if ctx.Err() != nil {
		return at, false // stopped, perhaps in the middle: whoever leads next sends it
	}
	write, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	at = s.deps.Clock.Now().UTC()
	_, err := s.deliveries.UpdateAt(write, key, d.Rev, bus.Meta{Actor: actor, Verb: "attempt"}, func(rec api.DeliveryRecord) (api.DeliveryRecord, error) {
		return settled(rec, r, at), nil
	})
	if err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "outcome of a delivery not written; it is sent again", "tenant", key.Tenant, "code", api.CodeOf(err), "err", err)
		return at, true // not at once
	}
	return at, failed
}

// settled returns a delivery after an attempt.
func settled(rec api.DeliveryRecord, r answer, now time.Time) api.DeliveryRecord {
	rec.Attempts++
	rec.Status, rec.Problem, rec.NextAt = r.status, "", nil
	switch {
	case r.err == nil:
		rec.State, rec.EndedAt, rec.Body = api.DeliveryDelivered, &now, nil
	case r.final, rec.Attempts >= maxAttempts:
		rec.State, rec.EndedAt, rec.Problem = api.DeliveryFailed, &now, clip(r.err.Error(), 300)
	default:
		next := now.Add(max(backoff(rec.Attempts), r.after))
		rec.Problem, rec.NextAt = clip(r.err.Error(), 300), &next
	}
	return rec
}

// answer is what a receiver said.
type answer struct {
	status int
	err    error         // nil: it took the delivery
	final  bool          // no other attempt
	after  time.Duration // it asked to be left alone for so long
}

// send posts a delivery.
func (s *Service) send(ctx context.Context, hook record, d api.DeliveryRecord) answer {
	if _, err := CheckURL(hook.URL, s.deps.AllowPrivate); err != nil {
		return answer{err: fmt.Errorf("its URL %w", err), final: true}
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(d.Body))
	if err != nil {
		return answer{err: errors.New("its URL cannot be used"), final: true}
	}
	now := s.deps.Clock.Now()
	keys, err := s.activeKeys(hook, now)
	if err != nil {
		return answer{err: errors.New("its signing secret cannot be opened; rotate it")}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "agentyard-webhook/1")
	req.Header.Set(EventHeader, d.EventType)
	req.Header.Set(DeliveryHeader, d.ID)
	req.Header.Set(SignatureHeader, Sign(d.Body, now, keys...))
	resp, err := s.client.Do(req)
	if err != nil {
		return answer{err: plain(err)}
	}
	defer func() {
		_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // its end, or what keeps the connection from being used again
		_ = resp.Body.Close()
	}()
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return answer{status: resp.StatusCode}
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return answer{status: resp.StatusCode, err: fmt.Errorf("it redirects (%d), which is not followed; change the webhook's URL", resp.StatusCode)}
	}
	a := answer{status: resp.StatusCode, err: fmt.Errorf("it answered %d", resp.StatusCode), final: resp.StatusCode == http.StatusGone}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		a.after = min(time.Duration(min(seconds, 1<<20))*time.Second, backoffMax)
	}
	return a
}

// plain takes the URL, which may hold a secret, out of an error.
func plain(err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		return errors.New(e.Detail)
	}
	var u *url.Error
	if errors.As(err, &u) {
		if u.Timeout() {
			return fmt.Errorf("it did not answer within %v", attemptTimeout)
		}
		err = u.Err
	}
	return err
}

// wait is a pending delivery's place in its webhook's queue.
type wait struct {
	key   bus.Key
	at    time.Time
	index int
}

// waiting is a heap, the soonest first.
type waiting []*wait

func (w waiting) Len() int           { return len(w) }
func (w waiting) Less(i, j int) bool { return w[i].at.Before(w[j].at) }
func (w waiting) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].index, w[j].index = i, j
}
func (w *waiting) Push(x any) {
	e := x.(*wait)
	e.index = len(*w)
	*w = append(*w, e)
}
func (w *waiting) Pop() any {
	last := (*w)[len(*w)-1]
	*w = (*w)[:len(*w)-1]
	return last
}
