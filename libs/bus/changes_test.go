package bus_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"agentyard.dev/libs/bus"
)

func TestChanges(t *testing.T) {
	l, ctx := newThings(t), testContext(t)
	var want []string
	last := uint64(0)
	for i := range 40 {
		k := bus.Key{Tenant: "acme", ID: fmt.Sprintf("s%d", i%7)}
		e, err := l.Create(ctx, k, meta, thing{N: i})
		if err != nil {
			e, err = l.Update(ctx, k, meta, func(thing) (thing, error) { return thing{N: i}, nil })
		}
		if err != nil {
			t.Fatal(err)
		}
		last = e.Rev
		want = append(want, fmt.Sprint(k.ID, " ", i))
	}
	read := func(after uint64, limit int) (got []string, at uint64, more bool) {
		t.Helper()
		more, err := l.Changes(ctx, after, limit, func(e bus.Entry[thing]) error {
			got, at = append(got, fmt.Sprint(e.Key.ID, " ", e.State.N)), e.Rev
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got, at, more
	}
	t.Run("come in the order of writing, page by page", func(t *testing.T) {
		var got []string
		after, more := uint64(0), true
		for more {
			var page []string
			if page, after, more = read(after, 15); len(page) > 15 {
				t.Fatalf("a page of %d", len(page))
			}
			got = append(got, page...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	t.Run("there are none after the last", func(t *testing.T) {
		if got, _, more := read(last, 10); len(got) > 0 || more {
			t.Errorf("got %v, more %v", got, more)
		}
	})
	t.Run("an error ends it", func(t *testing.T) {
		stop := errors.New("stop")
		if _, err := l.Changes(ctx, 0, 10, func(bus.Entry[thing]) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
	})
}
