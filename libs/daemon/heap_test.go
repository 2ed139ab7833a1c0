package daemon

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

func TestHeapFloor(t *testing.T) {
	for live, want := range map[uint64]int{
		0: 3200, 1 << 20: 3200, 64 << 20: 200, 128 << 20: 100, 4 << 30: 100,
	} {
		if got := percentFor(live); got != want {
			t.Errorf("%d MiB live: %d %%, want %d", live>>20, got, want)
		}
	}
}

// TestKeepHeapFloor: what is set follows what is kept, however often that changes.
func TestKeepHeapFloor(t *testing.T) {
	t.Setenv("GOGC", "")
	KeepHeapFloor()
	becomes := func(what string, ok func(percent uint64) bool) {
		t.Helper()
		s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		for until := time.Now().Add(30 * time.Second); ; runtime.GC() {
			if metrics.Read(s); ok(s[0].Value.Uint64()) {
				return
			}
			if time.Now().After(until) {
				t.Fatalf("%s: %d %%", what, s[0].Value.Uint64())
			}
		}
	}
	for range 2 {
		becomes("little is kept", func(percent uint64) bool { return percent > 4*usualPercent })
		much := make([]byte, 2*heapFloor)
		becomes("more than the floor is kept", func(percent uint64) bool { return percent == usualPercent })
		runtime.KeepAlive(much)
	}
}
