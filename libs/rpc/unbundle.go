package rpc

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"agentyard.dev/libs/api"
)

const (
	// maxBundles bounds the bundles that a server has not answered wholly; the requests of one above it are refused.
	maxBundles = 4096
	// moreWithin is how long an asker may take to ask for the rest. One that does not has died.
	moreWithin = 10 * time.Second
)

// bundles are those that a server works at.
type bundles struct {
	places chan struct{} // one is taken by each
	inbox  string        // where askers ask for the rest: inbox.<number>

	mu   sync.Mutex
	last uint64
	rest map[string]*bundle // whose askers know that there is a rest, by number
}

func newBundles(nc *nats.Conn) *bundles {
	return &bundles{places: make(chan struct{}, maxBundles), inbox: nc.NewInbox() + ".", rest: map[string]*bundle{}}
}

// keep gives a bundle a number, if it has none, and returns where to ask for its rest.
func (bs *bundles) keep(b *bundle) (subject string) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if b.number == "" {
		bs.last++
		b.number = strconv.FormatUint(bs.last, 10)
		bs.rest[b.number] = b
	}
	return bs.inbox + b.number
}

func (bs *bundles) end(b *bundle) {
	bs.mu.Lock()
	delete(bs.rest, b.number)
	bs.mu.Unlock()
	<-bs.places
}

// more is called when an asker listens again.
func (bs *bundles) more(msg *nats.Msg) {
	bs.mu.Lock()
	b := bs.rest[strings.TrimPrefix(msg.Subject, bs.inbox)]
	bs.mu.Unlock()
	if b != nil && replyAllowed(msg.Reply, "") {
		b.listen(msg.Reply)
	}
}

// bundle is requests that came together.
type bundle struct {
	s      *Server
	number string // in bundles.rest; "": it is not there

	mu      sync.Mutex
	reply   string      // where to answer; "": the asker has yet to ask for the rest
	left    int         // requests that are worked at
	answers []*parcel   // to be sent
	overdue bool        // one of these has waited for bundleWait
	late    *time.Timer // makes them overdue
	given   *time.Timer // gives up on who does not ask for the rest
	ended   bool
}

// unbundle takes up the requests of a bundle, each as if it had come alone.
func (s *Server) unbundle(msg *nats.Msg) {
	parcels, err := readParcels(msg.Data)
	if err != nil || len(parcels) == 0 {
		s.reply(&call{msg: msg}, answer{}, api.Errorf(api.CodeInvalid, "the bundle cannot be read"))
		return
	}
	if !take(s.bundles.places) {
		s.reply(&call{msg: msg}, answer{}, s.overloaded())
		return
	}
	b := &bundle{s: s, reply: msg.Reply, left: len(parcels)}
	for i := range parcels {
		s.admit(&call{msg: &nats.Msg{Subject: msg.Subject, Header: parcels[i].header, Data: parcels[i].data}, bundle: b, number: i}, parcels[i].name)
	}
}

// answer is the answer to request number i.
func (b *bundle) answer(i int, header nats.Header, data []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left--
	b.answers = append(b.answers, &parcel{strconv.Itoa(i), header, data})
	if b.left > 0 && b.late == nil {
		b.late = time.AfterFunc(bundleWait, b.delayed)
	}
	return b.send()
}

// skip is for a request that nobody waits for.
func (b *bundle) skip() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left--
	_ = b.send()
}

func (b *bundle) delayed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.overdue = true
	if err := b.send(); err != nil {
		b.s.unsent(b.reply, err)
	}
}

// listen answers to reply from now on.
func (b *bundle) listen(reply string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.given == nil || !b.given.Stop() {
		return // given up on, or listening already
	}
	b.given, b.reply = nil, reply
	if err := b.send(); err != nil {
		b.s.unsent(reply, err)
	}
}

// send sends what there is, if the asker listens and nothing is left or what there is has waited long enough; mu is held.
func (b *bundle) send() error {
	switch {
	case b.ended, b.reply == "", b.left > 0 && (len(b.answers) == 0 || !b.overdue):
		return nil
	case len(b.answers) == 0: // nobody waited for any of them
		b.end()
		return nil
	}
	most, n, size := int(b.s.nc.MaxPayload())-headerReserve, 0, 0
	for n < len(b.answers) && (n == 0 || size+b.answers[n].size() <= most) {
		size += b.answers[n].size()
		n++
	}
	msg := &nats.Msg{Subject: b.reply, Data: appendParcels(make([]byte, 0, size), b.answers[:n])}
	b.answers = b.answers[n:]
	b.reply, b.overdue = "", len(b.answers) > 0
	if b.late != nil {
		b.late.Stop()
		b.late = nil
	}
	if b.left == 0 && len(b.answers) == 0 {
		b.end()
	} else {
		msg.Reply = b.s.bundles.keep(b)
		b.given = time.AfterFunc(moreWithin, b.giveUp)
	}
	return b.s.nc.PublishMsg(msg)
}

func (b *bundle) giveUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end()
}

// end gives its place to another; mu is held.
func (b *bundle) end() {
	if !b.ended {
		b.ended = true
		b.s.bundles.end(b)
	}
}
