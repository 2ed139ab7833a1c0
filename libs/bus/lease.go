package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	json "github.com/go-json-experiment/json/v1"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"agentyard.dev/libs/api"
)

// Lease says who may act alone under a name. It is held by writing to the LEASES ledger and
// expires when its holder stops renewing. Nobody compares clocks: who waits measures with its
// own how long the entry has not changed.
type Lease struct {
	c       *Conn
	cfg     LeaseConfig
	subject string
	live    string
	opened  bool
}

// LeaseConfig names a lease. A holder renews it every TTL/3; after TTL without renewal another may take it.
type LeaseConfig struct {
	Service string
	Name    string
	Holder  string        // unique per process
	TTL     time.Duration // zero: 3 s, so that takeover needs at most about 4 s
	// Ready, if not nil, is closed when this process can lead. Until then it watches: a holder that is silent meanwhile has been silent.
	Ready <-chan struct{}
}

const defaultLeaseTTL = 3 * time.Second

// leaseState is an entry of the LEASES stream.
type leaseState struct {
	Holder   string        `json:"holder"`
	TTL      time.Duration `json:"ttl"`
	Fence    uint64        `json:"fence,omitempty"` // the winning write's revision; 0 in that write itself
	Released bool          `json:"released,omitempty"`
}

// NewLease returns a lease that is not held yet.
func NewLease(c *Conn, cfg LeaseConfig) *Lease {
	if cfg.TTL == 0 {
		cfg.TTL = defaultLeaseTTL
	}
	return &Lease{
		c: c, cfg: cfg,
		subject: api.LedgerPrefix + leaseNoun + "." + cfg.Service + "." + cfg.Name,
		live:    leaseLive + cfg.Service + "." + cfg.Name,
	}
}

// Run competes for the lease until ctx ends. Each time it is won, lead is called with a context that
// ends when the lease is lost (before another may hold it) and with the fencing token, the revision of the winning write. Run waits for lead to return.
// When lead returns by itself the lease is released, and Run competes anew.
// On ctx's end the lease is released, so that the next holder need not wait.
func (l *Lease) Run(ctx context.Context, lead func(ctx context.Context, fence uint64)) error {
	if err := checkToken("service", l.cfg.Service); err != nil {
		return err
	}
	if err := checkToken("name", l.cfg.Name); err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	wake := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	for n := 1; ; n++ {
		err := l.c.Subscribe(ctx, l.live, func(string, Header, []byte) { wake() }, wake)
		if err == nil {
			err = l.open(ctx)
		}
		if err == nil {
			break
		}
		if pause(ctx, n) != nil {
			return nil //nolint:nilerr // its error is ctx's end
		}
	}
	var w watched
	for ctx.Err() == nil {
		fence, until, err := l.compete(ctx, &w)
		if err == nil && fence != 0 {
			l.hold(ctx, fence, until, lead)
			w = watched{}
			if pause(ctx, 1) != nil { // a lead that returns at once must not spin
				break
			}
			continue
		}
		wait, ready := l.cfg.TTL/3, l.cfg.Ready
		if l.isReady() {
			ready = nil
			if w.rev != 0 { // look again when what was seen runs out
				wait = min(wait, max(time.Until(w.since.Add(l.cfg.TTL)), time.Millisecond))
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-ready:
		case <-time.After(wait):
		}
	}
	return nil //nolint:nilerr // an error above is ctx's end
}

// open makes the stream once.
func (l *Lease) open(ctx context.Context) error {
	if l.opened {
		return nil
	}
	err := l.c.openLeases(ctx, l.cfg.Service == leaseKeeper)
	l.opened = err == nil
	return err
}

// leaseKeeper is the service that may change the stream of the leases, which all services make together.
const leaseKeeper = "sessions"

func (c *Conn) openLeases(ctx context.Context, keep bool) error {
	ctx, cancel := context.WithTimeout(ctx, OpTimeout)
	defer cancel()
	_, err := c.js.CreateStream(ctx, jetstream.StreamConfig{
		Name:              leaseStream,
		Subjects:          []string{api.LedgerPrefix + leaseNoun + ".*.*"},
		Storage:           jetstream.FileStorage,
		Replicas:          c.replicas,
		MaxMsgsPerSubject: 1,
		AllowDirect:       true,
		DenyDelete:        true,
		Duplicates:        time.Minute,
		RePublish:         &jetstream.RePublish{Source: api.LedgerPrefix + leaseNoun + ".>", Destination: leaseLive + ">"},
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // of an earlier or later release, or with another number of copies
		if keep {
			c.copyLeases(ctx)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("open leases: %w", err)
	}
	return nil
}

// copyLeases gives the stream the copies that a bus of several servers shall have. Leases work without, too.
func (c *Conn) copyLeases(ctx context.Context) {
	stream, err := c.js.Stream(ctx, leaseStream)
	if err == nil {
		cfg := stream.CachedInfo().Config
		if cfg.Replicas >= c.replicas {
			return
		}
		cfg.Replicas = c.replicas
		_, err = c.js.UpdateStream(ctx, cfg)
	}
	if err != nil {
		c.log.Warn("leases keep their number of copies; is there a server of the bus for each?", "copies", c.replicas, "err", err)
	}
}

// watched is the entry that a waiting process last saw, and since when.
type watched struct {
	rev   uint64
	since time.Time
}

func (l *Lease) isReady() bool {
	select {
	case <-l.cfg.Ready:
		return true
	default:
		return l.cfg.Ready == nil
	}
}

// compete takes the lease if it is free and this process is ready. fence is 0 when another holds it. until is when the
// holder must have renewed.
func (l *Lease) compete(ctx context.Context, w *watched) (fence uint64, until time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.TTL)
	defer cancel()
	asked := time.Now()
	m, err := l.c.getLast(ctx, leaseStream, l.subject)
	if err != nil && !errors.Is(err, errNoMessage) {
		*w = watched{} // the holder may renew unseen: begin to wait anew
		return 0, time.Time{}, err
	}
	if err == nil {
		var s leaseState
		if err := json.Unmarshal(m.data, &s); err != nil || m.foreign {
			s = leaseState{TTL: l.cfg.TTL}
		}
		if w.rev != m.seq {
			*w = watched{rev: m.seq, since: time.Now()}
		}
		if !s.Released && asked.Sub(w.since) < max(s.TTL, l.cfg.TTL) {
			return 0, time.Time{}, nil
		}
	}
	if !l.isReady() {
		return 0, time.Time{}, nil
	}
	start := time.Now()
	rev, err := l.write(ctx, m.seq, leaseState{Holder: l.cfg.Holder, TTL: l.cfg.TTL})
	if err != nil {
		return 0, time.Time{}, err
	}
	return rev, start.Add(l.cfg.TTL), nil
}

// write stores s behind revision rev and returns its revision.
func (l *Lease) write(ctx context.Context, rev uint64, s leaseState) (uint64, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return 0, err
	}
	id := nuid.Next()
	m := &nats.Msg{Subject: l.subject, Data: data, Header: nats.Header{headerWrite: {id}}}
	ack, err := l.c.conditional(ctx, m, rev, func(ctx context.Context) (uint64, bool, error) {
		newest, err := l.c.getLast(ctx, leaseStream, l.subject)
		return newest.seq, newest.header.Get(headerWrite) == id, err
	})
	return ack.Seq, err
}

// hold leads and renews until the lease is lost or ctx ends, then releases it.
func (l *Lease) hold(ctx context.Context, fence uint64, until time.Time, lead func(context.Context, uint64)) {
	held, lose := context.WithCancel(ctx)
	defer lose()
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		lead(held, fence)
	})
	// The context must end before another may take over. Whoever waits counts TTL from when it
	// saw the last renewal, which is later than when that was sent; a tenth is for clocks that
	// run unevenly and for the time that lead's own calls need to notice.
	margin := l.cfg.TTL / 10
	end := time.AfterFunc(time.Until(until)-margin, lose)
	defer end.Stop()

	rev := fence
	renew := time.NewTicker(l.cfg.TTL / 3)
	defer renew.Stop()
	for held.Err() == nil {
		select {
		case <-held.Done():
		case <-done:
			lose()
		case <-renew.C:
			start := time.Now()
			// Not held: a renewal that is given up may have been made, and the release after it would name the wrong revision.
			try, cancel := context.WithDeadline(context.WithoutCancel(held), until.Add(-margin))
			next, err := l.write(try, rev, leaseState{Holder: l.cfg.Holder, TTL: l.cfg.TTL, Fence: fence})
			cancel()
			switch {
			case err == nil:
				rev, until = next, start.Add(l.cfg.TTL)
				end.Reset(time.Until(until) - margin)
			case errors.Is(err, errWrongSequence):
				l.c.log.Warn("lease lost", "lease", l.cfg.Service+"/"+l.cfg.Name, "fence", strconv.FormatUint(fence, 10))
				lose()
			}
		}
	}
	wg.Wait()
	// A release under the condition of the last revision known cannot harm another's hold.
	release, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.TTL/3)
	defer cancel()
	_, _ = l.write(release, rev, leaseState{Holder: l.cfg.Holder, TTL: l.cfg.TTL, Fence: fence, Released: true})
}
