package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	json "github.com/go-json-experiment/json/v1"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"agentyard.dev/libs/api"
)

const (
	// feedHeartbeat is how often an idle consumer shows that it lives; feedDead is how long a
	// silent one is trusted.
	feedHeartbeat = 2 * time.Second
	feedDead      = 3 * feedHeartbeat
	feedCheck     = time.Second
	// feedInactive is when the server forgets a consumer that nobody listens to.
	feedInactive = 15 * time.Second
	// Flow control keeps what is on its way far below these.
	feedPendingMessages = 1 << 20
	feedPendingBytes    = 256 << 20
)

// feed is one ordered consumer: ephemeral, without acknowledgements, its messages numbered
// without a hole. When anything is missing it is replaced by the next one, which starts behind
// the last message that was applied.
type feed struct {
	sub      *nats.Subscription
	last     uint64 // consumer sequence of the last message
	loaded   uint64 // messages received
	initial  uint64 // messages that the consumer had pending when it was made
	broken   chan struct{}
	isBroken bool
}

func (f *feed) fail() {
	if !f.isBroken {
		f.isBroken = true
		close(f.broken)
	}
}

// Run feeds the view until ctx ends; then it returns nil.
func (v *View[T]) Run(ctx context.Context) error {
	reconnected, forget := v.l.c.onReconnect()
	defer forget()
	check := time.NewTicker(feedCheck)
	defer check.Stop()
	defer v.stop()
	failures := 0
	for ctx.Err() == nil {
		f, err := v.startFeed(ctx)
		if err != nil {
			failures++
			if failures == 10 { // about three seconds: more than a start order explains
				v.l.c.log.Warn("view waits for its stream", "stream", v.l.stream, "err", err)
			}
			if pause(ctx, failures) != nil {
				return nil
			}
			continue
		}
		failures = 0
		if v.watch(ctx, f, reconnected, check.C) {
			return nil
		}
	}
	return nil
}

// stop ends the feed and with it all calls of OnChange.
func (v *View[T]) stop() {
	v.feedMu.Lock()
	defer v.feedMu.Unlock()
	v.endFeed()
	v.mu.Lock()
	v.running, v.changes = false, nil
	v.mu.Unlock()
}

func (v *View[T]) endFeed() {
	if v.epoch != nil {
		_ = v.epoch.sub.Unsubscribe() // fails only when the connection is closed
		v.epoch = nil
	}
}

// watch returns when f must be replaced, or with true when ctx ended.
func (v *View[T]) watch(ctx context.Context, f *feed, reconnected <-chan struct{}, check <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return true
		case <-f.broken:
			return false
		case <-reconnected:
			return false
		case <-v.wake:
			v.feedMu.Lock()
			v.tell()
			v.feedMu.Unlock()
		case now := <-check:
			v.mu.Lock()
			v.expireLocked(now)
			v.mu.Unlock()
			if now.UnixNano()-v.heard.Load() > int64(feedDead) {
				return false
			}
		}
	}
}

// tell calls OnChange for what was applied; feedMu is held.
func (v *View[T]) tell() {
	v.mu.Lock()
	changes := v.changes
	v.changes = v.spare
	v.mu.Unlock()
	for i := range changes {
		v.cfg.OnChange(changes[i].old, *changes[i].now)
	}
	clear(changes) // what they refer to may go
	if cap(changes) > spareChanges {
		changes = nil
	}
	v.spare = changes[:0]
}

// spareChanges bounds the room that is kept for changes that are to be told.
const spareChanges = 1024

// consumerCreated is JetStream's answer to a consumer's creation.
type consumerCreated struct {
	Error      *jetstream.APIError `json:"error"`
	NumPending uint64              `json:"num_pending"`
}

func (v *View[T]) startFeed(ctx context.Context) (*feed, error) {
	nc := v.l.c.nc
	info, err := v.l.c.streamInfo(ctx, v.l.stream)
	if err != nil {
		return nil, err
	}
	f := &feed{broken: make(chan struct{})}
	inbox, name := nc.NewInbox(), nuid.Next()

	v.feedMu.Lock()
	v.endFeed()
	v.epoch = f
	v.mu.Lock()
	v.maxAge = info.Config.MaxAge
	cfg := jetstream.ConsumerConfig{
		Name:              name,
		DeliverSubject:    inbox,
		DeliverPolicy:     jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy:         jetstream.AckNonePolicy,
		MaxDeliver:        1,
		FilterSubject:     v.l.prefix + "*.*",
		FlowControl:       true,
		IdleHeartbeat:     feedHeartbeat,
		InactiveThreshold: feedInactive,
		MemoryStorage:     true,
		Replicas:          1,
	}
	if v.isReady() {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, v.seen+1
	}
	v.mu.Unlock()
	// Until the consumer's answer is here, messages wait at feedMu.
	defer v.feedMu.Unlock()

	f.sub, err = nc.Subscribe(inbox, func(m *nats.Msg) { v.receive(f, m) })
	if err != nil {
		v.epoch = nil
		return nil, err
	}
	if err := f.sub.SetPendingLimits(feedPendingMessages, feedPendingBytes); err != nil {
		v.endFeed()
		return nil, err
	}
	pending, err := v.createConsumer(ctx, cfg)
	if err != nil {
		v.endFeed()
		return nil, err
	}
	f.initial = pending
	v.heard.Store(time.Now().UnixNano())
	if pending == 0 {
		v.setReady()
	}
	return f, nil
}

func (v *View[T]) createConsumer(ctx context.Context, cfg jetstream.ConsumerConfig) (pending uint64, err error) {
	body, err := json.Marshal(map[string]any{"stream_name": v.l.stream, "config": cfg, "action": "create"})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, OpTimeout)
	defer cancel()
	// With a filter, the subject names it too.
	r, err := v.l.c.nc.RequestWithContext(ctx, "$JS.API.CONSUMER.CREATE."+v.l.stream+"."+cfg.Name+"."+cfg.FilterSubject, body)
	if err != nil {
		return 0, err
	}
	var created consumerCreated
	if err := json.Unmarshal(r.Data, &created); err != nil {
		return 0, err
	}
	if created.Error != nil {
		return 0, created.Error
	}
	return created.NumPending, nil
}

// streamInfo is what is asked of a stream itself.
type streamInfo struct {
	Error  *jetstream.APIError `json:"error"`
	Config struct {
		MaxAge   time.Duration `json:"max_age"` // how long it keeps a message; zero: for ever
		Replicas int           `json:"num_replicas"`
	} `json:"config"`
	State struct {
		Last uint64 `json:"last_seq"` // of the last message that it has had, kept or not
	} `json:"state"`
}

func (c *Conn) streamInfo(ctx context.Context, stream string) (info streamInfo, err error) {
	ctx, cancel := context.WithTimeout(ctx, OpTimeout)
	defer cancel()
	r, err := c.nc.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+stream, nil)
	if err != nil {
		return info, err
	}
	if err := json.Unmarshal(r.Data, &info); err != nil {
		return info, err
	}
	if info.Error != nil {
		return info, info.Error
	}
	return info, nil
}

func (v *View[T]) isReady() bool {
	select {
	case <-v.ready:
		return true
	default:
		return false
	}
}

// receive handles one message of feed f.
func (v *View[T]) receive(f *feed, m *nats.Msg) {
	v.feedMu.Lock()
	defer v.feedMu.Unlock()
	if v.epoch != f || f.isBroken {
		return
	}
	v.heard.Store(time.Now().UnixNano())
	if m.Header.Get(headerStatus) != "" {
		v.control(f, m)
		return
	}
	at, err := parseDelivery(m.Reply)
	if err != nil || at.consumer != f.last+1 {
		f.fail() // something was dropped
		return
	}
	if err := v.take(m, at.stream); err != nil {
		v.l.c.log.Warn("view reads anew", "stream", v.l.stream, "err", err)
		f.fail()
		return
	}
	f.last = at.consumer
	f.loaded++
	if at.pending == 0 || f.loaded >= f.initial {
		v.setReady()
	}
}

// control answers flow control and checks a heartbeat.
func (v *View[T]) control(f *feed, m *nats.Msg) {
	if m.Header.Get(headerStatus) != "100" {
		f.fail() // the consumer is gone
		return
	}
	if m.Reply != "" { // flow control: all before it was handled
		_ = v.l.c.nc.Publish(m.Reply, nil)
		return
	}
	if stalled := m.Header.Get("Nats-Consumer-Stalled"); stalled != "" {
		_ = v.l.c.nc.Publish(stalled, nil)
	}
	if last, err := strconv.ParseUint(m.Header.Get("Nats-Last-Consumer"), 10, 64); err == nil && last != f.last {
		f.fail()
		return
	}
	v.setReady() // idle: nothing is pending
}

// take takes one change into the view. It fails when it could not be found out what the change is.
func (v *View[T]) take(m *nats.Msg, seq uint64) error {
	key, ok := v.l.keyOf(m.Subject)
	if !ok {
		return nil
	}
	kept, alien := stored{subject: m.Subject, seq: seq, header: m.Header, data: m.Data}, foreign(m, asStored)
	v.mu.Lock()
	if v.knownLocked(key, seq) {
		v.mu.Unlock()
		return nil // this process's own write
	}
	var own *Entry[T] // or one that waits for its answer
	if !alien {
		own = v.flying[m.Header.Get(headerWrite)]
	}
	if own != nil {
		own.place(kept)
		v.applyLocked(own, true)
	}
	v.mu.Unlock()
	if own == nil {
		var e Entry[T]
		var err error
		if alien {
			if e, err = v.l.genuine(context.Background(), key, seq); api.CodeOf(err) == api.CodeUnavailable {
				return err
			}
		} else {
			e, err = v.l.decode(key, kept)
		}
		if err != nil {
			v.l.c.log.Error("view skips an entry", "stream", v.l.stream, "tenant", key.Tenant, "code", api.CodeOf(err), "err", err)
			return nil
		}
		v.mu.Lock()
		v.applyLocked(&e, true)
		v.mu.Unlock()
	}
	v.tell()
	return nil
}

// knownLocked marks a change as seen if it was applied before the consumer brought it.
func (v *View[T]) knownLocked(key Key, rev uint64) bool {
	if v.ahead[key] == rev {
		delete(v.ahead, key)
	} else if it := v.items[key]; it == nil || it.entry.Rev != rev {
		return false
	}
	v.seen = max(v.seen, rev)
	return true
}

// delivery is where a consumer's message stands.
type delivery struct{ stream, consumer, pending uint64 }

// parseDelivery reads the reply subject of a consumer's message:
// $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>, where
// <domain>.<account> may come third and a random token last.
func parseDelivery(reply string) (delivery, error) {
	rest, ok := strings.CutPrefix(reply, "$JS.ACK.")
	if !ok {
		return delivery{}, errors.New("not a consumer's message")
	}
	tokens := strings.Split(rest, ".")
	switch {
	case len(tokens) == 7:
	case len(tokens) >= 9:
		tokens = tokens[2:9]
	default:
		return delivery{}, fmt.Errorf("a delivery of %d tokens", len(tokens))
	}
	var d delivery
	for _, f := range []struct {
		to   *uint64
		from string
	}{{&d.stream, tokens[3]}, {&d.consumer, tokens[4]}, {&d.pending, tokens[6]}} {
		n, err := strconv.ParseUint(f.from, 10, 64)
		if err != nil {
			return delivery{}, fmt.Errorf("a delivery with a bad number: %w", err)
		}
		*f.to = n
	}
	return d, nil
}
