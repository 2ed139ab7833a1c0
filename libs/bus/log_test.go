package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

const tenant = "acme"

// yard is a server with its log, as the sessions service has it.
type yard struct {
	srv  *bus.Server
	ring *bus.Keyring
	conn *bus.Conn // the sessions service's
	log  *bus.Log
}

func newYard(t testing.TB, cfg bus.LogConfig) *yard {
	t.Helper()
	srv, ring := bustest.New(t)
	y := &yard{srv: srv, ring: ring, conn: bustest.Connect(t, srv, ring, "sessions")}
	var err error
	if y.log, err = bus.OpenLog(testContext(t), y.conn, cfg); err != nil {
		t.Fatal(err)
	}
	return y
}

func (y *yard) position(session string) func(context.Context) (uint64, string, error) {
	return func(ctx context.Context) (uint64, string, error) { return y.log.Position(ctx, tenant, session) }
}

// appender returns a running appender with the session's own credentials.
func (y *yard) appender(t testing.TB, session string, last uint64) (*bus.Appender, func()) {
	t.Helper()
	a := bus.NewAppender(bustest.ConnectSession(t, y.srv, y.ring, tenant, session), tenant, session, last, y.position(session))
	return a, running(t, a.Run)
}

func chunk(i int) api.Event {
	return api.Event{Type: api.EventAgentMessageChunk, MessageID: "m1", Delta: fmt.Sprint("chunk ", i)}
}

func (y *yard) say(t testing.TB, session string, i int) uint64 {
	t.Helper()
	seq, _, err := y.log.AppendUser(testContext(t), tenant, session, "", api.Event{Type: api.EventUserMessage, Content: fmt.Sprint("say ", i)})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func appendChunks(t testing.TB, a *bus.Appender, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := a.Append(testContext(t), chunk(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

// readAll reads a session's events in pages.
func readAll(t testing.TB, l *bus.Log, session string, writer api.LogWriter, after uint64, page int) []api.Event {
	t.Helper()
	var all []api.Event
	for {
		evs, more, err := l.Read(testContext(t), tenant, session, writer, after, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range evs {
			if ev.Seq <= after && ev.Type != api.EventGap {
				t.Fatalf("event %d after %d", ev.Seq, after)
			}
			after = ev.Seq
		}
		all = append(all, evs...)
		if !more {
			return all
		}
	}
}

// checkChunks fails unless evs are the chunks 0 to n-1 in order.
func checkChunks(t testing.TB, evs []api.Event, n int) {
	t.Helper()
	var last uint64
	for i, ev := range evs {
		if ev.Delta != fmt.Sprint("chunk ", i) || ev.Seq <= last {
			t.Fatalf("event %d of %d is %q at %d after %d", i, len(evs), ev.Delta, ev.Seq, last)
		}
		last = ev.Seq
	}
	if len(evs) != n {
		t.Fatalf("%d events, want %d", len(evs), n)
	}
}

func TestLog(t *testing.T) {
	y, ctx := newYard(t, bus.LogConfig{}), testContext(t)
	s := api.NewID(api.KindSession)

	t.Run("nothing yet", func(t *testing.T) {
		evs, more, err := y.log.Read(ctx, tenant, s, "", 0, 10)
		if err != nil || more || len(evs) != 0 {
			t.Fatal(evs, more, err)
		}
		_, err = y.log.Last(ctx, tenant, s, api.WriterUser)
		wantCode(t, err, api.CodeNotFound)
	})

	a, _ := y.appender(t, s, 0)
	other := api.NewID(api.KindSession)
	for i := range 3 {
		y.say(t, s, i)
		y.say(t, other, i)
		appendChunks(t, a, i, i+1)
	}

	t.Run("both sides in common order", func(t *testing.T) {
		for _, page := range []int{1, 2, 100} {
			evs := readAll(t, y.log, s, "", 0, page)
			if len(evs) != 6 {
				t.Fatalf("%d events in pages of %d", len(evs), page)
			}
			for i, ev := range evs {
				want := fmt.Sprint("say ", i/2)
				if i%2 == 1 {
					want = fmt.Sprint("chunk ", i/2)
				}
				if ev.Content+ev.Delta != want || ev.Session != s || ev.Seq == 0 || ev.At.IsZero() {
					t.Fatalf("event %d is %+v", i, ev)
				}
			}
		}
	})

	t.Run("one side", func(t *testing.T) {
		checkChunks(t, readAll(t, y.log, s, api.WriterAgent, 0, 2), 3)
		last, err := y.log.Last(ctx, tenant, s, api.WriterAgent)
		if err != nil || last.Delta != "chunk 2" {
			t.Fatal(last, err)
		}
	})

	t.Run("a repeated user event is kept once", func(t *testing.T) {
		ev := api.Event{Type: api.EventUserMessage, Content: "once"}
		seq, dup, err := y.log.AppendUser(ctx, tenant, s, "key", ev)
		if err != nil || dup {
			t.Fatal(seq, dup, err)
		}
		y.say(t, s, 9)
		again, dup, err := y.log.AppendUser(ctx, tenant, s, "key", ev)
		if err != nil || !dup || again != seq {
			t.Fatalf("again at %d (%v), first at %d: %v", again, dup, seq, err)
		}
		elsewhere, dup, err := y.log.AppendUser(ctx, tenant, other, "key", ev)
		if err != nil || dup || elsewhere == seq {
			t.Fatal("another session's key was taken for this one's", elsewhere, dup, err)
		}
	})

	t.Run("concurrent user events are all kept", func(t *testing.T) {
		before := len(readAll(t, y.log, s, api.WriterUser, 0, 1000))
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if _, _, err := y.log.AppendUser(ctx, tenant, s, fmt.Sprint("c", i), api.Event{Type: api.EventInterrupt}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := len(readAll(t, y.log, s, api.WriterUser, 0, 1000)); n != before+20 {
			t.Fatalf("%d events, before %d", n, before)
		}
	})

	t.Run("who wrote last need not ask where the log ends, and who is wrong about it asks", func(t *testing.T) {
		s := api.NewID(api.KindSession)
		replica := bus.ReadLog(y.conn)
		var n uint64 // of the stream's entries
		say := func(l *bus.Log, requests uint64) {
			t.Helper()
			before := y.conn.NATS().Stats().OutMsgs
			seq, _, err := l.AppendUser(ctx, tenant, s, "", api.Event{Type: api.EventInterrupt})
			if err != nil || seq <= n {
				t.Fatal(seq, err)
			}
			n = seq
			if asked := y.conn.NATS().Stats().OutMsgs - before; asked != requests {
				t.Errorf("%d requests, want %d", asked, requests)
			}
		}
		y.log.Begin(tenant, s)
		say(y.log, 1)
		say(y.log, 1)
		say(replica, 2)
		say(y.log, 3) // in vain, where it ends, again
		say(y.log, 1)
		replica.Begin(tenant, s) // which it knows better
		say(replica, 3)
		again := bus.ReadLog(y.conn)
		again.Begin(tenant, s)
		say(again, 3)
		if evs := readAll(t, y.log, s, api.WriterUser, 0, 1000); len(evs) != 7 {
			t.Errorf("%d events", len(evs))
		}
	})

	t.Run("unsafe names are refused", func(t *testing.T) {
		for _, bad := range []string{"", "*", ">", "a.b", "a b"} {
			_, _, err := y.log.Read(ctx, bad, s, "", 0, 1)
			wantCode(t, err, api.CodeInvalid)
			_, _, err = y.log.Read(ctx, tenant, bad, "", 0, 1)
			wantCode(t, err, api.CodeInvalid)
			_, _, err = y.log.AppendUser(ctx, tenant, bad, "", api.Event{})
			wantCode(t, err, api.CodeInvalid)
			wantCode(t, y.log.Purge(ctx, tenant, bad), api.CodeInvalid)
			wantCode(t, y.log.Follow(ctx, tenant, bad, 0, nil, nil), api.CodeInvalid)
		}
	})

	t.Run("purge", func(t *testing.T) {
		if err := y.log.Purge(ctx, tenant, s); err != nil {
			t.Fatal(err)
		}
		if evs := readAll(t, y.log, s, "", 0, 10); len(evs) != 0 {
			t.Fatal(evs)
		}
		if evs := readAll(t, y.log, other, "", 0, 10); len(evs) == 0 {
			t.Fatal("purged another session")
		}
	})
}

// What was dropped by the bound is said with a gap, for entries of one event and of several.
func TestLogGap(t *testing.T) {
	y := newYard(t, bus.LogConfig{MaxPerSession: 50})
	for _, size := range []int{1, 3} {
		t.Run(fmt.Sprintf("entries of %d", size), func(t *testing.T) {
			s := api.NewID(api.KindSession)
			y.say(t, s, 0)
			a, _ := y.appender(t, s, 0)
			for i := range 120 {
				evs := make([]api.Event, size)
				for j := range evs {
					evs[j] = chunk(i*size + j)
				}
				if err := a.Append(testContext(t), evs...); err != nil {
					t.Fatal(err)
				}
				if err := a.Flush(testContext(t)); err != nil {
					t.Fatal(err)
				}
			}
			for _, page := range []int{1, 7, 1000} {
				evs := readAll(t, y.log, s, "", 0, page)
				if evs[0].Type != api.EventGap || evs[0].From != 1 {
					t.Fatalf("page %d: the first is %+v", page, evs[0])
				}
				var kept []api.Event
				for _, ev := range evs {
					if ev.Type == api.EventAgentMessageChunk {
						kept = append(kept, ev)
					}
				}
				if len(kept) != 50*size || kept[0].Delta != fmt.Sprint("chunk ", 70*size) {
					t.Fatalf("page %d: %d kept from %q", page, len(kept), kept[0].Delta)
				}
				if evs[0].To >= kept[0].Seq {
					t.Fatalf("gap to %d, kept from %d", evs[0].To, kept[0].Seq)
				}
				// Whoever has seen the last that was dropped misses nothing.
				rest, _, err := y.log.Read(testContext(t), tenant, s, "", evs[0].To, 10)
				if err != nil || len(rest) != 10 || rest[0].Type == api.EventGap {
					t.Fatal(rest, err)
				}
			}
			var gaps, chunks int
			ctx, cancel := context.WithCancel(testContext(t))
			err := y.log.Follow(ctx, tenant, s, 0, func(ev api.Event) error {
				switch ev.Type {
				case api.EventGap:
					gaps++
				case api.EventAgentMessageChunk:
					chunks++
				}
				return nil
			}, cancel)
			if !errors.Is(err, context.Canceled) || gaps != 1 || chunks != 50*size {
				t.Fatalf("followed %d gaps, %d chunks: %v", gaps, chunks, err)
			}
		})
	}
}

func TestAppender(t *testing.T) {
	y := newYard(t, bus.LogConfig{})

	t.Run("keeps order, one by one and in bursts", func(t *testing.T) {
		s := api.NewID(api.KindSession)
		a, stop := y.appender(t, s, 0)
		appendChunks(t, a, 0, 5)
		for i := 5; i < 10; i++ {
			appendChunks(t, a, i, i+1)
		}
		appendChunks(t, a, 10, 3000)
		stop()
		checkChunks(t, readAll(t, y.log, s, api.WriterAgent, 0, 1000), 3000)
		wantCode(t, a.Append(testContext(t), chunk(0)), api.CodeUnavailable)
	})

	t.Run("commits what is left when it is told to stop", func(t *testing.T) {
		s := api.NewID(api.KindSession)
		a := bus.NewAppender(bustest.ConnectSession(t, y.srv, y.ring, tenant, s), tenant, s, 0, y.position(s))
		for i := range 100 {
			if err := a.Append(testContext(t), chunk(i)); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		checkChunks(t, readAll(t, y.log, s, api.WriterAgent, 0, 1000), 100)
	})

	t.Run("a second writer supersedes the first", func(t *testing.T) {
		s := api.NewID(api.KindSession)
		a, _ := y.appender(t, s, 0)
		appendChunks(t, a, 0, 20)
		last, _, err := y.log.Position(testContext(t), tenant, s)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := y.appender(t, s, last)
		appendChunks(t, b, 20, 21)
		_ = a.Append(testContext(t), chunk(999))
		if err := a.Flush(testContext(t)); !errors.Is(err, bus.ErrSuperseded) {
			t.Fatalf("flush of the first: %v", err)
		}
		if err := a.Append(testContext(t), chunk(999)); !errors.Is(err, bus.ErrSuperseded) {
			t.Fatalf("append to the first: %v", err)
		}
		appendChunks(t, b, 21, 50)
		checkChunks(t, readAll(t, y.log, s, api.WriterAgent, 0, 1000), 50)
	})

	t.Run("the queue is bounded", func(t *testing.T) {
		s := api.NewID(api.KindSession)
		a := bus.NewAppender(bustest.ConnectSession(t, y.srv, y.ring, tenant, s), tenant, s, 0, y.position(s))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		n := 0
		for ; n < 100_000; n++ {
			if err := a.Append(ctx, chunk(n)); err != nil {
				wantCode(t, err, api.CodeUnavailable)
				break
			}
		}
		if n == 100_000 {
			t.Fatal("nothing bounds the queue")
		}
		running(t, a.Run)
		if err := a.Flush(testContext(t)); err != nil {
			t.Fatal(err)
		}
		checkChunks(t, readAll(t, y.log, s, api.WriterAgent, 0, 1000), n)
	})

	t.Run("resumes in the middle of a group", func(t *testing.T) {
		s := api.NewID(api.KindSession)
		a, _ := y.appender(t, s, 0)
		if err := a.Append(testContext(t), chunk(0), chunk(1), chunk(2), chunk(3)); err != nil {
			t.Fatal(err)
		}
		appendChunks(t, a, 4, 6)
		for _, page := range []int{1, 3, 100} {
			all := readAll(t, y.log, s, "", 0, page)
			checkChunks(t, all, 6)
			for i := range all {
				rest := readAll(t, y.log, s, "", all[i].Seq, page)
				if len(rest) != 5-i || (len(rest) > 0 && rest[0].Seq != all[i+1].Seq) {
					t.Fatalf("after event %d: %+v", i, rest)
				}
			}
		}
		last, err := y.log.Last(testContext(t), tenant, s, api.WriterAgent)
		if err != nil || last.Delta != "chunk 5" {
			t.Fatal(last, err)
		}
	})

	t.Run("refuses what is too large", func(t *testing.T) {
		s := api.NewID(api.KindSession)
		a, _ := y.appender(t, s, 0)
		wantCode(t, a.Append(testContext(t), api.Event{Type: api.EventTerminal, Data: make([]byte, 4<<20)}), api.CodeInvalid)
		wantCode(t, a.Append(testContext(t), make([]api.Event, 1001)...), api.CodeInvalid)
		if err := a.Append(testContext(t), api.Event{Type: api.EventTerminal, Data: make([]byte, 1<<20)}); err != nil {
			t.Fatal(err)
		}
		if err := a.Flush(testContext(t)); err != nil {
			t.Fatal(err)
		}
	})
}

// Appends survive the server's restart: nothing lost, nothing doubled, order kept.
func TestAppenderAcrossServerRestart(t *testing.T) {
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	srv := bustest.Start(t, ring, dir, "127.0.0.1:0")
	listen := srv.URL()[len("nats://"):]
	y := &yard{srv: srv, ring: ring, conn: bustest.Connect(t, srv, ring, "sessions")}
	if y.log, err = bus.OpenLog(testContext(t), y.conn, bus.LogConfig{}); err != nil {
		t.Fatal(err)
	}
	const n, sessions = 3000, 3
	ids := make([]string, sessions)
	var wg sync.WaitGroup
	var followed [sessions][]api.Event
	var progress sync.Map
	for i := range sessions {
		s := api.NewID(api.KindSession)
		ids[i] = s
		a, _ := y.appender(t, s, 0)
		wg.Go(func() {
			for j := range n {
				if err := a.Append(context.Background(), chunk(j)); err != nil {
					t.Error(err)
					return
				}
				if j%10 == 9 {
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					if err := a.Flush(ctx); err != nil {
						t.Error(err)
					}
					cancel()
					progress.Store(i, j)
				}
			}
		})
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
			defer cancel()
			_ = y.log.Follow(ctx, tenant, s, 0, func(ev api.Event) error {
				followed[i] = append(followed[i], ev)
				if len(followed[i]) >= n {
					return errors.New("enough")
				}
				return nil
			}, nil)
		})
	}
	for _, at := range []int{300, 1500} {
		eventually(t, "some were kept", func() bool { v, _ := progress.Load(0); j, _ := v.(int); return j >= at })
		srv.Close()
		srv = bustest.Start(t, ring, dir, listen)
	}
	wg.Wait()
	for i, s := range ids {
		checkChunks(t, readAll(t, y.log, s, api.WriterAgent, 0, 1000), n)
		checkChunks(t, followed[i], n)
	}
}
