package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

var errDone = errors.New("done")

// Many followers, started before, amid and after the writes, each see each event once, in order.
func TestHub(t *testing.T) {
	y := newYard(t, bus.LogConfig{})
	gateway := bustest.Connect(t, y.srv, y.ring, "gateway")
	h := bus.NewHub(bus.ReadLog(gateway))
	s := api.NewID(api.KindSession)
	a, _ := y.appender(t, s, 0)
	const n, followers = 2000, 60

	ctx := testContext(t)
	var wg sync.WaitGroup
	var heads atomic.Int32
	got := make([][]*bus.HubEvent, followers)
	follow := func(i int, after uint64) {
		wg.Go(func() {
			err := h.Follow(ctx, tenant, s, after, func(ev *bus.HubEvent) error {
				got[i] = append(got[i], ev)
				if event(t, ev).Delta == fmt.Sprint("chunk ", n-1) {
					return errDone
				}
				return nil
			}, func() { heads.Add(1) })
			if !errors.Is(err, errDone) {
				t.Errorf("follower %d with %d events: %v", i, len(got[i]), err)
			}
		})
	}
	for i := range followers / 3 {
		follow(i, 0)
	}
	eventually(t, "the first are at the head", func() bool { return heads.Load() == followers/3 })
	subs := gateway.NATS().NumSubscriptions()
	for i := 0; i < n/2; i++ {
		if err := a.Append(ctx, chunk(i)); err != nil {
			t.Fatal(err)
		}
		if i == n/4 {
			for j := range followers / 3 {
				follow(followers/3+j, 0)
			}
		}
		if i%50 == 0 { // some singly
			if err := a.Flush(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	appendChunks(t, a, n/2, n-1)
	for j := range followers / 3 {
		follow(2*followers/3+j, 0)
	}
	eventually(t, "all are at the head", func() bool { return heads.Load() == followers })
	if now := gateway.NATS().NumSubscriptions(); now > subs+1 {
		t.Errorf("%d subscriptions for %d followers, %d before", now, followers, subs)
	}
	appendChunks(t, a, n-1, n)
	wg.Wait()
	for _, evs := range got {
		plain := make([]api.Event, len(evs))
		for i, ev := range evs {
			if plain[i] = event(t, ev); plain[i].Seq != ev.Seq || plain[i].Session != s || plain[i].Type != ev.Type {
				t.Fatalf("JSON %s of %s at %d", ev.JSON, ev.Type, ev.Seq)
			}
		}
		checkChunks(t, plain, n)
	}
	last := len(got[0]) - 1
	if got[0][last] != got[followers-1][last] {
		t.Error("a live event was encoded more than once")
	}
	eventually(t, "the subscription ended", func() bool { return gateway.NATS().NumSubscriptions() < subs })
}

// A follower that does not take events holds up nobody, keeps nothing in memory, and gets all in the end.
func TestHubSlowFollower(t *testing.T) {
	y := newYard(t, bus.LogConfig{})
	h := bus.NewHub(bus.ReadLog(bustest.Connect(t, y.srv, y.ring, "gateway")))
	s := api.NewID(api.KindSession)
	a, _ := y.appender(t, s, 0)
	const n = 1500
	ctx := testContext(t)
	release, heads := make(chan struct{}), make(chan struct{}, 2)
	var slow, fast []api.Event
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = h.Follow(ctx, tenant, s, 0, func(ev *bus.HubEvent) error {
			<-release
			if slow = append(slow, event(t, ev)); len(slow) == n {
				return errDone
			}
			return nil
		}, func() { heads <- struct{}{} })
	})
	fastDone := make(chan struct{})
	wg.Go(func() {
		defer close(fastDone)
		_ = h.Follow(ctx, tenant, s, 0, func(ev *bus.HubEvent) error {
			if fast = append(fast, event(t, ev)); len(fast) == n {
				return errDone
			}
			return nil
		}, func() { heads <- struct{}{} })
	})
	await(t, heads, "the head")
	await(t, heads, "the head")
	for i := range n { // one entry each: more than a ring holds
		appendChunks(t, a, i, i+1)
	}
	await(t, fastDone, "the fast follower")
	close(release)
	wg.Wait()
	checkChunks(t, fast, n)
	checkChunks(t, slow, n)
}

// A runner follows the user's side live with its own credential, and catches up by asking.
func TestFollowUser(t *testing.T) {
	y := newYard(t, bus.LogConfig{})
	s := api.NewID(api.KindSession)
	c := bustest.ConnectSession(t, y.srv, y.ring, tenant, s)
	c.CheckLogsEvery(time.Hour)
	ctx := testContext(t)
	y.say(t, s, 0)
	asked := 0
	read := func(ctx context.Context, after uint64, limit int) ([]api.Event, bool, error) {
		asked++
		return y.log.Read(ctx, tenant, s, api.WriterUser, after, limit)
	}
	head := make(chan struct{})
	var said []string
	done := make(chan error, 1)
	go func() {
		done <- bus.FollowUser(ctx, c, tenant, s, 0, read, func(ev api.Event) error {
			if said = append(said, ev.Content); len(said) == 4 {
				return errDone
			}
			return nil
		}, func() { close(head) })
	}()
	await(t, head, "the head")
	for i := 1; i < 4; i++ {
		y.say(t, s, i)
	}
	if err := <-done; !errors.Is(err, errDone) {
		t.Fatal(err)
	}
	if fmt.Sprint(said) != "[say 0 say 1 say 2 say 3]" || asked != 1 {
		t.Fatalf("heard %v, asked %d times", said, asked)
	}
}

// What nobody heard of is found by the check, even if nothing follows it.
func TestFollowCheck(t *testing.T) {
	y := newYard(t, bus.LogConfig{})
	deaf, s := api.NewID(api.KindSession), api.NewID(api.KindSession)
	c := bustest.ConnectSession(t, y.srv, y.ring, tenant, deaf) // which hears nothing of s
	c.CheckLogsEvery(600 * time.Millisecond)
	ctx := testContext(t)
	read := func(ctx context.Context, after uint64, limit int) ([]api.Event, bool, error) {
		return y.log.Read(ctx, tenant, s, api.WriterUser, after, limit)
	}
	said, done := make(chan string), make(chan error, 1)
	go func() {
		done <- bus.FollowUser(ctx, c, tenant, deaf, 0, read, func(ev api.Event) error {
			said <- ev.Content
			if ev.Content == "say 4" {
				return errDone
			}
			return nil
		}, nil)
	}()
	for i := range 5 {
		y.say(t, s, i)
		select {
		case got := <-said:
			if want := fmt.Sprintf("say %d", i); got != want {
				t.Fatalf("heard %q, want %q", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("say %d was not heard", i)
		}
	}
	if err := <-done; !errors.Is(err, errDone) {
		t.Fatal(err)
	}
}

func event(t *testing.T, ev *bus.HubEvent) api.Event {
	t.Helper()
	out, err := ev.Event()
	if err != nil {
		t.Error(err)
	}
	return out
}
