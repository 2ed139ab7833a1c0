package fair

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

// BenchmarkQueue measures one task's way through a queue in which many others wait.
func BenchmarkQueue(b *testing.B) {
	for _, n := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			q, now := New(Config{}), epoch
			task := func(i int) Task {
				return Task{
					ID: fmt.Sprintf("t%016d", i), Tenant: fmt.Sprint("tenant", i%100), User: fmt.Sprint("user", i%1000),
					Priority: i % 10, Since: now, Seq: uint64(i), //nolint:gosec // positive
				}
			}
			for i := range n {
				q.Add(now, task(i))
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ResetTimer()
			for i := range b.N {
				q.Add(now, task(n+i))
				id, _ := q.Next(now)
				now = now.Add(time.Millisecond)
				q.Finish(now, id, time.Second)
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/task")
		})
	}
}
