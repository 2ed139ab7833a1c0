package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// journal records what happened in which order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// These run on synctest's clock: seconds pass at once, and exactly.
func TestGroup(t *testing.T) {
	const timeout = 30 * time.Second
	slow := func(j *journal, name string, takes time.Duration) *actor {
		return &actor{name: name, run: func(ctx context.Context) error {
			<-ctx.Done()
			j.add(name + " told")
			<-time.After(takes)
			j.add(name + " done")
			return ctx.Err()
		}}
	}

	t.Run("tells actors in reverse order, each when the one before is done", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var j journal
			g := &group{timeout: timeout, logger: quiet(), actors: []*actor{
				slow(&j, "bus", time.Second), slow(&j, "work", time.Second), slow(&j, "http", time.Second),
			}}
			g.start(t.Context())
			if err := g.stop(nil); err != nil {
				t.Error(err)
			}
			want := []string{"http told", "http done", "work told", "work done", "bus told", "bus done"}
			if got := j.all(); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	})
	t.Run("does not wait longer than its timeout for an actor that hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var j journal
			release := make(chan struct{})
			defer close(release)
			hung := &actor{name: "hung", run: func(context.Context) error { <-release; return nil }}
			g := &group{timeout: timeout, logger: quiet(), actors: []*actor{
				slow(&j, "bus", time.Second), slow(&j, "work", time.Second), hung, slow(&j, "http", time.Second),
			}}
			begin := time.Now()
			g.start(t.Context())
			err := g.stop(nil)
			if took := time.Since(begin); took != timeout {
				t.Errorf("took %v, want %v", took, timeout)
			}
			if err == nil || !strings.Contains(err.Error(), "hung: did not stop within 30s") {
				t.Errorf("got %v, want an error that names the actor", err)
			}
			for _, name := range []string{"bus", "work"} {
				if !slices.Contains(j.all(), name+" done") {
					t.Errorf("%s, behind the one that hangs, was not let finish: %q", name, j.all())
				}
			}
		})
	})
	t.Run("returns the errors of those that fail to stop", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			bad := func(name string) *actor {
				return &actor{name: name, run: func(ctx context.Context) error {
					<-ctx.Done()
					return errors.New("flush failed")
				}}
			}
			g := &group{timeout: timeout, logger: quiet(), actors: []*actor{bad("one"), bad("two")}}
			g.start(t.Context())
			err := g.stop(nil)
			if err == nil || !strings.Contains(err.Error(), "one: flush failed") || !strings.Contains(err.Error(), "two: flush failed") {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestRun(t *testing.T) {
	config := Config{StopTimeout: 10 * time.Second}
	wait := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	run := func(t *testing.T, ctx context.Context, actors ...func(context.Context) error) error {
		t.Helper()
		d, err := New("test", "v0", config, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		for i, a := range actors {
			d.Add([]string{"first", "second", "third"}[i], a)
		}
		return d.Run(ctx)
	}

	t.Run("ends without error with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		err := run(t, ctx, wait, func(ctx context.Context) error { cancel(); return wait(ctx) })
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("ends with the error of the actor that returns first", func(t *testing.T) {
		cause := errors.New("disk full")
		err := run(t, t.Context(), wait, func(context.Context) error { return cause })
		if !errors.Is(err, cause) || !strings.HasPrefix(err.Error(), "second: disk full") || strings.Count(err.Error(), "disk full") != 1 {
			t.Errorf("got %v", err)
		}
	})
	t.Run("ends when an actor is done", func(t *testing.T) {
		if err := run(t, t.Context(), wait, func(context.Context) error { return nil }); err != nil {
			t.Error(err)
		}
	})
	t.Run("tells of a cancellation that nobody asked for", func(t *testing.T) {
		err := run(t, t.Context(), wait, func(context.Context) error { return context.Canceled })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("gives actors the values of its context and not its end", func(t *testing.T) {
		type key struct{}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "v"))
		order := make(chan string, 2)
		actor := func(name string) func(context.Context) error {
			return func(ctx context.Context) error {
				if ctx.Value(key{}) != "v" {
					t.Error("the value is lost")
				}
				<-ctx.Done()
				order <- name
				return nil
			}
		}
		cancel()
		if err := run(t, ctx, actor("first"), actor("second")); err != nil {
			t.Error(err)
		}
		if a, b := <-order, <-order; a != "second" || b != "first" {
			t.Errorf("ended in the order %s, %s", a, b)
		}
	})
}
