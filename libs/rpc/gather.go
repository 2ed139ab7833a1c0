package rpc

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"agentyard.dev/libs/api"
)

// alonePause is how long a client asks one by one after a service did not know bundles: it, or one of its instances, is of an earlier release.
const alonePause = time.Minute

// gatherer brings together the requests to one service that are asked at the same time.
type gatherer struct {
	c       *Client
	service string

	mu       sync.Mutex
	waiting  []*posted
	gathered bool         // by the one who was first
	alone    atomic.Int64 // until when nothing is bundled, in Unix nanoseconds
}

// posted is a request whose asker waits.
type posted struct {
	parcel
	deadline time.Time
	came     chan arrival // of capacity 1
	bundle   atomic.Pointer[bundled]
}

// arrival is what became of a posted request: a reply, an error, or neither if it has to be asked alone.
type arrival struct {
	reply *nats.Msg
	err   error
}

// gathererOf returns where a request may wait for others; nil if it is to be asked alone: because it, or its answer, may be large or a long time coming.
func (c *Client) gathererOf(a *ask) *gatherer {
	if a.info.Waits || len(a.data) > maxBundled || !strings.HasPrefix(a.subject, api.OpPrefix) {
		return nil
	}
	g, ok := c.gatherers.Load(a.info.Service)
	if !ok {
		g, _ = c.gatherers.LoadOrStore(a.info.Service, &gatherer{c: c, service: a.info.Service})
	}
	if until := g.(*gatherer).alone.Load(); until != 0 && time.Now().UnixNano() < until {
		return nil
	}
	return g.(*gatherer)
}

// request asks verb, with others if they ask at the same time.
func (g *gatherer) request(ctx context.Context, verb string, msg *nats.Msg) (*nats.Msg, error) {
	p := &posted{parcel: parcel{verb, msg.Header, msg.Data}, came: make(chan arrival, 1)}
	p.deadline, _ = ctx.Deadline()
	for _, bundle := range g.gather(p) {
		if len(bundle) == 1 {
			bundle[0].came <- arrival{} // asked alone
			continue
		}
		g.send(bundle)
	}
	defer p.leave()
	select {
	case got := <-p.came:
		if got == (arrival{}) {
			return g.c.nc.RequestMsgWithContext(ctx, msg)
		}
		return got.reply, got.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// gather posts p. Who is first takes what all that can run now have posted, in bundles, and the others get none.
func (g *gatherer) gather(p *posted) (bundles [][]*posted) {
	g.mu.Lock()
	g.waiting = append(g.waiting, p)
	first := !g.gathered
	g.gathered = true
	g.mu.Unlock()
	if !first {
		return nil
	}
	runtime.Gosched()
	g.mu.Lock()
	all := g.waiting
	g.waiting, g.gathered = nil, false
	g.mu.Unlock()
	for len(all) > 0 {
		n, size := 0, 0
		for n < min(len(all), maxParcels) && (n == 0 || size+all[n].size() <= bundleBytes) {
			size += all[n].size()
			n++
		}
		bundles, all = append(bundles, all[:n:n]), all[n:]
	}
	return bundles
}

// bundled is a bundle on its way. It ends when its last asker has gone, at the latest with the last deadline.
type bundled struct {
	g       *gatherer
	parcels []*posted // nil: its asker has its answer
	asking  atomic.Int32
	cancel  context.CancelFunc
}

// send sends a bundle, and brings the answers to those who asked.
func (g *gatherer) send(parcels []*posted) {
	b := &bundled{g: g, parcels: parcels}
	b.asking.Store(int32(len(parcels))) //nolint:gosec // at most maxParcels
	size, last := 0, time.Time{}
	for _, p := range parcels {
		size += p.size()
		if p.deadline.After(last) {
			last = p.deadline
		}
	}
	body := appendParcels(make([]byte, 0, size), parcels)
	ctx, cancel := context.WithDeadline(context.Background(), last)
	b.cancel = cancel
	for _, p := range parcels {
		p.bundle.Store(b)
	}
	go func() {
		defer cancel()
		b.run(ctx, &nats.Msg{Subject: opSubject(g.service, bundleVerb), Data: body})
	}()
}

// leave says that p's asker waits no longer.
func (p *posted) leave() {
	if b := p.bundle.Load(); b != nil && b.asking.Add(-1) == 0 {
		b.cancel()
	}
}

// run asks until everything is answered or nobody waits. An instance that ends in between leaves those it has not answered waiting, as it leaves
// who asks alone.
func (b *bundled) run(ctx context.Context, msg *nats.Msg) {
	for n := 0; ; n++ {
		reply, err := b.g.c.nc.RequestMsgWithContext(ctx, msg)
		if n == 0 && err == nil && carrier(reply.Header).Get(headerError) == string(api.CodeNotFound) {
			b.g.alone.Store(time.Now().Add(alonePause).UnixNano())
			b.all(arrival{})
			return
		}
		if n == 0 && err == nil && reply.Header != nil {
			b.all(arrival{reply: reply}) // refused
			return
		}
		if err != nil {
			if n == 0 && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
				b.all(arrival{err: err})
			}
			return
		}
		if !b.take(reply.Data) || reply.Reply == "" {
			return
		}
		msg = &nats.Msg{Subject: reply.Reply}
	}
}

// all tells every asker the same.
func (b *bundled) all(a arrival) {
	for _, p := range b.parcels {
		p.came <- a
	}
}

// take brings some answers to those who asked. What is no answer to anybody ends the bundle: its askers run into their deadlines.
func (b *bundled) take(data []byte) bool {
	answers, err := readParcels(data)
	if err != nil {
		return false
	}
	for _, a := range answers {
		i, err := strconv.Atoi(a.name)
		if err != nil || i < 0 || i >= len(b.parcels) || b.parcels[i] == nil {
			return false
		}
		b.parcels[i].came <- arrival{reply: &nats.Msg{Header: a.header, Data: a.data}}
		b.parcels[i] = nil
	}
	return true
}
