package daemon

import "testing"

func TestHeapFloor(t *testing.T) {
	for live, want := range map[uint64]int{
		0: 1600, 1 << 20: 1600, 32 << 20: 200, 64 << 20: 100, 4 << 30: 100,
	} {
		if got := percentFor(live); got != want {
			t.Errorf("%d MiB live: %d %%, want %d", live>>20, got, want)
		}
	}
}
