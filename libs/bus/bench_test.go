package bus_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

// body is as large as a usual change or event.
var body = make([]byte, 300)

// inParallel runs b.N calls of f on n goroutines.
func inParallel(b *testing.B, n int, f func(worker, i int) error) {
	b.Helper()
	b.ResetTimer()
	before := cpuTime()
	var wg sync.WaitGroup
	for w := range n {
		wg.Go(func() {
			for i := w; i < b.N; i += n {
				if err := f(w, i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// cpuTime is what this process, clients and server, has used: on a busy machine it tells more
// than the clock.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var concurrencies = []int{1, 16, 64}

// The limit: JetStream publishes of the same size on the same stream, each acknowledged.
func BenchmarkRawPublish(b *testing.B) {
	for _, n := range concurrencies {
		b.Run(fmt.Sprintf("c=%d", n), func(b *testing.B) {
			srv, ring := bustest.New(b)
			c := bustest.Connect(b, srv, ring, "sessions")
			openThings(b, c, 0)
			js, err := jetstream.New(c.NATS())
			if err != nil {
				b.Fatal(err)
			}
			inParallel(b, n, func(w, i int) error {
				_, err := js.Publish(context.Background(), fmt.Sprintf("yard.v1.sessions.acme.s%d", w), body)
				return err
			})
		})
	}
}

func BenchmarkLedgerUpdate(b *testing.B) {
	for _, n := range concurrencies {
		b.Run(fmt.Sprintf("c=%d", n), func(b *testing.B) {
			srv, ring := bustest.New(b)
			l := openThings(b, bustest.Connect(b, srv, ring, "sessions"), 0)
			v := l.View(bus.ViewConfig[thing]{})
			running(b, v.Run)
			await(b, v.Ready(), "the view")
			keys := make([]bus.Key, n)
			for i := range keys {
				keys[i] = bus.Key{Tenant: "acme", ID: fmt.Sprint("s", i)}
				if _, err := l.Create(testContext(b), keys[i], meta, thing{Owner: string(make([]byte, 30))}); err != nil {
					b.Fatal(err)
				}
			}
			inParallel(b, n, func(w, i int) error {
				_, err := l.Update(context.Background(), keys[w], meta, increment)
				return err
			})
		})
	}
}

// The limit of the log: one connection for each session, each publish acknowledged.
func BenchmarkRawLogPublish(b *testing.B) {
	for _, n := range concurrencies {
		b.Run(fmt.Sprintf("c=%d", n), func(b *testing.B) {
			y := newYard(b, bus.LogConfig{})
			conns, subjects := make([]*nats.Conn, n), make([]string, n)
			for i := range conns {
				s := api.NewID(api.KindSession)
				conns[i] = bustest.ConnectSession(b, y.srv, y.ring, tenant, s).NATS()
				subjects[i] = api.LogSubject(tenant, s, api.WriterAgent)
			}
			inParallel(b, n, func(w, i int) error {
				_, err := conns[w].Request(subjects[w], body, patience)
				return err
			})
		})
	}
}

// The limit for one writer that does not wait for each answer.
func BenchmarkRawPublishAsync(b *testing.B) {
	y := newYard(b, bus.LogConfig{})
	js, err := jetstream.New(y.conn.NATS(), jetstream.WithPublishAsyncMaxPending(256))
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		if _, err := js.PublishAsync("yard.v1.log.acme.s1.user", body); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
}

// Appends of n sessions, each flushed after every `burst` events.
func BenchmarkLogAppend(b *testing.B) {
	for _, n := range concurrencies {
		for _, burst := range []int{1, 4, 8, 16, 64, 1000} {
			b.Run(fmt.Sprintf("c=%d/burst=%d", n, burst), func(b *testing.B) {
				y := newYard(b, bus.LogConfig{})
				as := make([]*bus.Appender, n)
				for i := range as {
					as[i], _ = y.appender(b, api.NewID(api.KindSession), 0)
				}
				ev := api.Event{Type: api.EventTerminal, Data: make([]byte, 150)}
				counts := make([]int, n*64)
				inParallel(b, n, func(w, i int) error {
					if err := as[w].Append(context.Background(), ev); err != nil {
						return err
					}
					if counts[w*64]++; counts[w*64]%burst == 0 || i+n >= b.N {
						return as[w].Flush(context.Background())
					}
					return nil
				})
			})
		}
	}
}

// BenchmarkReplay follows one session's 1,500 events, among those of others, to the head.
func BenchmarkReplay(b *testing.B) {
	for _, entry := range []int{1, 10} {
		b.Run(fmt.Sprintf("entry=%d", entry), func(b *testing.B) {
			y := newYard(b, bus.LogConfig{})
			ids := make([]string, 20)
			var wg sync.WaitGroup
			for i := range ids {
				ids[i] = api.NewID(api.KindSession)
				a, _ := y.appender(b, ids[i], 0)
				wg.Go(func() {
					for j := 0; j < 1500; j += entry {
						evs := make([]api.Event, entry)
						for k := range evs {
							evs[k] = chunk(j + k)
						}
						_ = a.Append(context.Background(), evs...)
						if err := a.Flush(context.Background()); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			h := bus.NewHub(bus.ReadLog(bustest.Connect(b, y.srv, y.ring, "gateway")))
			b.ResetTimer()
			for i := range b.N {
				n := 0
				ctx, cancel := context.WithCancel(context.Background())
				_ = h.Follow(ctx, tenant, ids[i%len(ids)], 0, func(*bus.HubEvent) error { n++; return nil }, cancel)
				if n != 1500 {
					b.Fatalf("%d events", n)
				}
			}
		})
	}
}

// BenchmarkViewLoad loads 50,000 entities.
func BenchmarkViewLoad(b *testing.B) {
	srv, ring := bustest.New(b)
	l := openThings(b, bustest.Connect(b, srv, ring, "sessions"), 0)
	const entities = 50_000
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < entities; i += 64 {
				if _, err := l.Create(context.Background(), bus.Key{Tenant: "acme", ID: fmt.Sprint("s", i)}, meta, thing{Owner: fmt.Sprint("u", i%2500)}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.ResetTimer()
	for range b.N {
		v := bus.ReadLedger[thing](bustest.Connect(b, srv, ring, "gateway"), "sessions").View(bus.ViewConfig[thing]{
			Indexes: map[string]func(bus.Entry[thing]) []string{"owner": byOwner},
		})
		stop := running(b, v.Run)
		await(b, v.Ready(), "the view")
		if n := v.Len("owner", "u7"); n != entities/2500 {
			b.Fatalf("u7 owns %d", n)
		}
		stop()
	}
}

// BenchmarkHub delivers events of 200 sessions to 2,000 followers.
func BenchmarkHub(b *testing.B) {
	const sessions, followers = 200, 2000
	y := newYard(b, bus.LogConfig{})
	h := bus.NewHub(bus.ReadLog(bustest.Connect(b, y.srv, y.ring, "gateway")))
	ids := make([]string, sessions)
	for i := range ids {
		ids[i] = api.NewID(api.KindSession)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	heads, got := make(chan struct{}, followers), make(chan struct{}, followers)
	for i := range followers {
		running(b, func(ctx context.Context) error {
			return h.Follow(ctx, tenant, ids[i%sessions], 0, func(*bus.HubEvent) error { got <- struct{}{}; return nil }, func() { heads <- struct{}{} })
		})
	}
	for range followers {
		<-heads
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ResetTimer()
	cpu := cpuTime()
	for i := range b.N {
		if _, _, err := y.log.AppendUser(context.Background(), tenant, ids[i%sessions], "", chunk(i)); err != nil {
			b.Fatal(err)
		}
		for range followers / sessions {
			<-got
		}
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc+after.StackInuse-before.StackInuse)/followers, "B/follower")
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
}
