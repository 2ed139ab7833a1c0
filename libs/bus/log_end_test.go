package bus_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

// A bus that lost what was written last numbers what it writes next as that was: who has seen what was lost is told, and misses nothing of what comes.
func TestLogTakenBack(t *testing.T) {
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now, backup := t.TempDir(), t.TempDir()
	srv := bustest.Start(t, ring, now, "127.0.0.1:0")
	listen := strings.TrimPrefix(srv.URL(), "nats://")
	y := &yard{srv: srv, ring: ring, conn: bustest.Connect(t, srv, ring, "sessions")}
	if y.log, err = bus.OpenLog(testContext(t), y.conn, bus.LogConfig{}); err != nil {
		t.Fatal(err)
	}
	gateway := bustest.Connect(t, srv, ring, "gateway")
	ctx, cancel := context.WithCancel(testContext(t))
	s := api.NewID(api.KindSession)

	heard := map[string]chan api.Event{}
	var ended []chan error
	follow := func(who string, f func(func(api.Event) error) error) {
		c, end := make(chan api.Event), make(chan error, 1)
		heard[who], ended = c, append(ended, end)
		go func() {
			end <- f(func(ev api.Event) error {
				select {
				case c <- ev:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		}()
	}
	t.Cleanup(func() {
		cancel()
		for _, end := range ended {
			<-end
		}
	})
	expect := func(want func(api.Event) bool, what string) {
		t.Helper()
		for who, c := range heard {
			select {
			case ev := <-c:
				if !want(ev) {
					t.Fatalf("%s heard %+v, want %s", who, ev, what)
				}
			case <-ctx.Done():
				t.Fatalf("%s did not hear %s", who, what)
			}
		}
	}
	said := func(i int) {
		t.Helper()
		seq := y.say(t, s, i)
		expect(func(ev api.Event) bool { return ev.Type == api.EventUserMessage && ev.Seq == seq }, "what was said")
	}
	follow("who follows", func(f func(api.Event) error) error {
		return bus.ReadLog(gateway).Follow(ctx, tenant, s, 0, f, nil)
	})
	follow("the runner", func(f func(api.Event) error) error {
		return bus.FollowUser(ctx, bustest.ConnectSession(t, srv, ring, tenant, s), tenant, s, 0, func(ctx context.Context, after uint64, limit int) ([]api.Event, bool, error) {
			return y.log.Read(ctx, tenant, s, api.WriterUser, after, limit)
		}, f, nil)
	})

	said(0)
	end := y.say(t, s, 1)
	expect(func(ev api.Event) bool { return ev.Seq == end }, "the last that is kept")
	srv.Close()
	if err := os.CopyFS(backup, os.DirFS(now)); err != nil {
		t.Fatal(err)
	}
	srv = bustest.Start(t, ring, now, listen)
	said(2)
	lost := y.say(t, s, 3)
	expect(func(ev api.Event) bool { return ev.Seq == lost }, "the last that is lost")
	srv.Close()
	bustest.Start(t, ring, backup, listen)

	back := func(ev api.Event) bool {
		return ev.Type == api.EventGap && ev.Seq == end && ev.To == end && ev.From > end
	}
	follow("who comes back", func(f func(api.Event) error) error {
		return bus.ReadLog(gateway).Follow(ctx, tenant, s, lost, f, nil)
	})
	expect(back, "that the log was taken back")
	said(4)
	said(5)
}
