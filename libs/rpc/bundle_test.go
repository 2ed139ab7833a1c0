package rpc

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/token"
)

// together has n requests of c to a service travel together: each asks in a goroutine of its own, and none is sent before all are there. It
// returns what waits for the answers.
func together(t *testing.T, c *Client, service string, n int, call func(i int)) (wait func()) {
	t.Helper()
	c.cfg.Timeout = time.Minute // where the machine is busy
	g := c.gathererOf(&ask{info: api.OpInfo{Service: service}, subject: opSubject(service, "any")})
	hold := func(held bool) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.gathered = held
	}
	posted := func() int {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.waiting)
	}
	hold(true)
	var wg sync.WaitGroup
	for i := range n - 1 {
		wg.Go(func() { call(i) })
	}
	eventually(t, "all have asked", func() bool { return posted() == n-1 })
	hold(false)
	wg.Go(func() { call(n - 1) })
	return wg.Wait
}

// heard counts the messages to a service's operations since it was asked last.
func heard(t *testing.T, nc *nats.Conn, service string) (count func() (bundles, alone int)) {
	t.Helper()
	sub, err := nc.SubscribeSync(opSubject(service, "*"))
	if err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	return func() (bundles, alone int) {
		flush(t, nc) // what was sent before is here
		for n, _, _ := sub.Pending(); n > 0; n-- {
			m, err := sub.NextMsg(10 * time.Second)
			switch {
			case err != nil:
				t.Fatal(err)
			case m.Subject == opSubject(service, bundleVerb):
				bundles++
			default:
				alone++
			}
		}
		return bundles, alone
	}
}

func flush(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(10 * time.Second); err != nil {
		t.Fatal(err)
	}
}

func TestBundle(t *testing.T) {
	s, c, connect := newTest(t, ServerConfig{})
	Handle(s, echo, answerEcho)
	Handle(s, admin, answerEcho)
	release := make(chan struct{})
	Handle(s, anyone, func(ctx context.Context, req echoRequest) (echoResponse, error) { // as slow as it is told to be
		select {
		case <-release:
		case <-ctx.Done():
			return echoResponse{}, ctx.Err()
		}
		return answerEcho(ctx, req)
	})
	Handle(s, open, func(_ context.Context, req echoRequest) (echoResponse, error) { // a large answer
		return echoResponse{Text: strings.Repeat(req.Text, 200<<10)}, nil
	})
	runServer(t, s)
	count := heard(t, connect(), "test")

	t.Run("each is who asked, and gets its own answer or error", func(t *testing.T) {
		const n = maxParcels
		wait := together(t, c, "test", n, func(i int) {
			who, op := []string{"ada-token", "chief-token", "garbage"}[i%3], []api.Op[echoRequest, echoResponse]{echo, admin}[i%2]
			got, err := Call(as(who), c, op, echoRequest{Text: fmt.Sprint(i)})
			p, known := people[who]
			switch {
			case !known && api.CodeOf(err) != api.CodeUnauthenticated,
				known && who == "ada-token" && op.Verb == admin.Verb && api.CodeOf(err) != api.CodeDenied:
				t.Errorf("%s may %s: %+v, %v", who, op.Verb, got, err)
			case known && !(who == "ada-token" && op.Verb == admin.Verb) && (err != nil || got != echoResponse{Text: fmt.Sprint(i), By: p.ID}):
				t.Errorf("%s, %s: %+v, %v", who, op.Verb, got, err)
			}
		})
		wait()
		if bundles, alone := count(); bundles != 1 || alone != 0 {
			t.Errorf("%d bundles and %d alone", bundles, alone)
		}
	})
	t.Run("who is slow holds up nobody", func(t *testing.T) {
		var quick, slow sync.WaitGroup
		quick.Add(4)
		slow.Add(3)
		wait := together(t, c, "test", 7, func(i int) {
			op, done := echo, quick.Done
			if i%2 == 0 && i < 6 {
				op, done = anyone, slow.Done
			}
			got, err := Call(as("ada-token"), c, op, echoRequest{Text: fmt.Sprint(i)})
			if err != nil || got.Text != fmt.Sprint(i) {
				t.Errorf("%d: %+v, %v", i, got, err)
			}
			done()
		})
		quick.Wait() // or the test ends without an end
		for range 3 {
			release <- struct{}{}
		}
		slow.Wait()
		wait()
		if n := len(s.bundles.places); n != 0 {
			t.Errorf("%d bundles are left", n)
		}
	})
	t.Run("answers that are too large for one message", func(t *testing.T) {
		wait := together(t, c, "test", 8, func(i int) { // of a MiB
			got, err := Call(context.Background(), c, open, echoRequest{Text: string(rune('a' + i%26))})
			if err != nil || got.Text != strings.Repeat(string(rune('a'+i%26)), 200<<10) {
				t.Errorf("%d: %d bytes, %v", i, len(got.Text), err)
			}
		})
		wait()
	})
	t.Run("one that is cancelled leaves the others", func(t *testing.T) {
		ctx, cancel := context.WithCancel(as("ada-token"))
		defer cancel()
		var gone sync.WaitGroup
		gone.Add(1)
		wait := together(t, c, "test", 3, func(i int) {
			if i == 0 {
				defer gone.Done()
				_, err := Call(ctx, c, anyone, echoRequest{})
				if api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(err.Error(), "cancelled") {
					t.Errorf("cancelled: %v", err)
				}
				return
			}
			if _, err := Call(as("ada-token"), c, anyone, echoRequest{}); err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
		cancel()
		gone.Wait()
		for range 3 {
			release <- struct{}{}
		}
		wait()
	})
	t.Run("a runner's operation is not reached", func(t *testing.T) {
		nc := connect()
		body := appendParcels(nil, []*parcel{{name: report.Verb, header: nats.Header{headerAuthorization: {"Bearer chief-token"}}}})
		reply, err := nc.Request(opSubject("test", bundleVerb), body, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		answers, err := readParcels(reply.Data)
		if err != nil || len(answers) != 1 || carrier(answers[0].header).Get(headerError) == "" {
			t.Fatalf("got %+v, %v", answers, err)
		}
	})
	t.Run("nonsense is refused", func(t *testing.T) {
		for _, body := range []string{"", "\x00", "\x02\x01a\x00\x00", "\xff\xff\xff\xff\x0f"} {
			reply, err := connect().Request(opSubject("test", bundleVerb), []byte(body), 10*time.Second)
			if err != nil || reply.Header.Get(headerError) != string(api.CodeInvalid) {
				t.Errorf("%q: %+v, %v", body, reply, err)
			}
		}
	})
}

// TestBundleEnds: a server that stops answers what came in bundles, too.
func TestBundleEnds(t *testing.T) {
	s, c, _ := newTest(t, ServerConfig{})
	var here sync.WaitGroup
	here.Add(4)
	release := make(chan struct{})
	Handle(s, open, func(ctx context.Context, req echoRequest) (echoResponse, error) {
		here.Done()
		<-release
		return answerEcho(ctx, req)
	})
	stop := runServer(t, s)
	wait := together(t, c, "test", 4, func(i int) {
		if _, err := Call(context.Background(), c, open, echoRequest{}); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	})
	here.Wait()
	ended := make(chan error)
	go func() { ended <- stop() }()
	eventually(t, "it takes no more", func() bool { return s.waiting.Err() != nil })
	close(release)
	wait()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestBundleOverload: more than a server does at once are refused one by one.
func TestBundleOverload(t *testing.T) {
	s, c, _ := newTest(t, ServerConfig{Concurrency: 2})
	release := make(chan struct{})
	Handle(s, open, func(ctx context.Context, req echoRequest) (echoResponse, error) {
		<-release
		return answerEcho(ctx, req)
	})
	runServer(t, s)
	var done, refused atomic.Int32
	wait := together(t, c, "test", 10, func(i int) {
		switch _, err := Call(context.Background(), c, open, echoRequest{}); {
		case err == nil:
			done.Add(1)
		case api.CodeOf(err) == api.CodeExhausted:
			if refused.Add(1) == 8 {
				close(release)
			}
		default:
			t.Errorf("%d: %v", i, err)
		}
	})
	wait()
	if done.Load() != 2 || refused.Load() != 8 {
		t.Errorf("%d done, %d refused", done.Load(), refused.Load())
	}
}

// TestBundleRefused: a service of an earlier release does nothing with a bundle, and is asked one by one.
func TestBundleRefused(t *testing.T) {
	connect := startBus(t)
	c := newClient(connect(), ClientConfig{Name: "asker"})
	var mu sync.Mutex
	done := map[string]int{}
	old := connect()
	if _, err := old.QueueSubscribe(opSubject("test", "*"), "test", func(m *nats.Msg) {
		reply := &nats.Msg{Subject: m.Reply, Data: m.Data}
		if m.Subject != opSubject("test", open.Verb) {
			reply.Header, reply.Data = errorReply(api.Errorf(api.CodeNotFound, "test has no operation %q", m.Subject))
		} else {
			mu.Lock()
			done[string(m.Data)]++
			mu.Unlock()
		}
		_ = old.PublishMsg(reply)
	}); err != nil {
		t.Fatal(err)
	}
	flush(t, old)
	count := heard(t, connect(), "test")
	const n = 5
	wait := together(t, c, "test", n, func(i int) {
		if got, err := Call(context.Background(), c, open, echoRequest{Text: fmt.Sprint(i)}); err != nil || got.Text != fmt.Sprint(i) {
			t.Errorf("%d: %+v, %v", i, got, err)
		}
	})
	wait()
	mu.Lock()
	defer mu.Unlock()
	if times := slices.Collect(maps.Values(done)); len(times) != n || slices.Max(times) != 1 {
		t.Errorf("done: %v", done)
	}
	if bundles, alone := count(); bundles != 1 || alone != n {
		t.Errorf("%d bundles and %d alone", bundles, alone)
	}
	if c.gathererOf(&ask{info: open.Info(), subject: opSubject("test", open.Verb)}) != nil {
		t.Error("the next would travel together again")
	}
}

// TestBundleNowhere: no service is no answer for each.
func TestBundleNowhere(t *testing.T) {
	c := newClient(startBus(t)(), ClientConfig{Name: "asker"})
	wait := together(t, c, "test", 3, func(int) {
		if _, err := Call(context.Background(), c, open, echoRequest{}); api.CodeOf(err) != api.CodeUnavailable || !strings.Contains(err.Error(), "not reachable") {
			t.Errorf("got %v", err)
		}
	})
	wait()
}

// TestBundleCredentials: asking for the rest needs no permission but those that answering needs.
func TestBundleCredentials(t *testing.T) {
	srv, ring := bustest.New(t)
	s := NewServer(bustest.Connect(t, srv, ring, "sessions"), ServerConfig{Service: "sessions", Auth: people})
	release := make(chan struct{})
	Handle(s, api.GetSession, func(_ context.Context, req api.SessionRef) (api.Session, error) {
		if req.IfMatch > 0 {
			<-release
		}
		return api.Session{ID: req.ID}, nil
	})
	runServer(t, s)
	for _, service := range []string{"gateway", "scheduler"} {
		t.Run(service, func(t *testing.T) {
			c := NewClient(bustest.ConnectInProcess(t, srv, ring, service), ClientConfig{Name: service})
			var quick, first sync.WaitGroup
			quick.Add(2)
			first.Add(1)
			var slow atomic.Int32
			wait := together(t, c, "sessions", 4, func(i int) {
				req := api.SessionRef{ID: sessionA, IfMatch: uint64(i / 2)} //nolint:gosec // 0 or 1
				got, err := Call(token.WithRaw(context.Background(), "ada-token"), c, api.GetSession, req)
				if err != nil || got.ID != sessionA {
					t.Errorf("%d: %+v, %v", i, got, err)
				}
				switch {
				case i < 2:
					quick.Done()
				case slow.Add(1) == 1:
					first.Done()
				}
			})
			quick.Wait()
			release <- struct{}{}
			first.Wait()
			release <- struct{}{}
			wait()
		})
	}
}

func FuzzParcels(f *testing.F) {
	f.Add([]byte("\x00"))
	f.Add(appendParcels(nil, []*parcel{{name: "echo", header: nats.Header{headerAuthorization: {"Bearer x"}}, data: []byte(`{}`)}, {name: "1"}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		parcels, err := readParcels(data)
		if err != nil {
			return
		}
		list, size := make([]*parcel, len(parcels)), 0
		for i := range parcels {
			list[i] = &parcels[i]
			size += parcels[i].size()
		}
		again := appendParcels(nil, list)
		if len(again) > size+1 {
			t.Fatalf("%d bytes, and size says %d", len(again), size)
		}
		read, err := readParcels(again)
		if err != nil || len(read) != len(parcels) {
			t.Fatalf("%d parcels, then %d: %v", len(parcels), len(read), err)
		}
		for i, p := range read {
			if p.name != parcels[i].name || !bytes.Equal(p.data, parcels[i].data) || !maps.EqualFunc(p.header, parcels[i].header, slices.Equal) {
				t.Fatalf("parcel %d was %+v and is %+v", i, parcels[i], p)
			}
		}
	})
}
