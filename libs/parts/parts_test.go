package parts_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"agentyard.dev/libs/parts"
)

var errBroken = errors.New("broken")

// untilTold works until it is told to stop, and then returns err.
func untilTold(err error) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		return err
	}
}

func atOnce(err error) func(context.Context) error {
	return func(context.Context) error { return err }
}

func TestWait(t *testing.T) {
	type part struct {
		name string
		run  func(context.Context) error
	}
	for name, c := range map[string]struct {
		parts []part
		ends  bool   // by itself
		want  string // the error; empty: none
	}{
		"no parts":                               {},
		"told to stop":                           {parts: []part{{"follow", untilTold(nil)}, {"serve", untilTold(nil)}}},
		"an error after being told to stop":      {parts: []part{{"follow", untilTold(errBroken)}, {"serve", untilTold(context.Canceled)}}},
		"a part that is done ends nothing":       {parts: []part{{"prepare", atOnce(nil)}, {"serve", untilTold(nil)}}},
		"a part that fails ends the others":      {parts: []part{{"follow", untilTold(nil)}, {"serve", atOnce(errBroken)}}, ends: true, want: "serve: broken"},
		"the first to fail is the answer":        {parts: []part{{"serve", atOnce(errBroken)}, {"follow", untilTold(errors.New("second"))}}, ends: true, want: "serve: broken"},
		"a part that fails after another's end":  {parts: []part{{"prepare", atOnce(nil)}, {"serve", atOnce(errBroken)}}, ends: true, want: "serve: broken"},
		"a part that is cancelled is no failure": {parts: []part{{"serve", atOnce(context.Canceled)}, {"follow", untilTold(nil)}}, ends: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, tell := context.WithCancel(t.Context())
				defer tell()
				group, gctx := parts.New(ctx)
				for _, p := range c.parts {
					group.Go(p.name, p.run)
				}
				answer := make(chan error, 1)
				go func() { answer <- group.Wait() }()
				synctest.Wait()
				if ended := gctx.Err() != nil; ended != c.ends {
					t.Errorf("the group has ended by itself: %v, want %v", ended, c.ends)
				}
				tell()
				err := <-answer
				if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want || !errors.Is(err, errBroken)) {
					t.Errorf("answers %v, want %q", err, c.want)
				}
			})
		})
	}
}

// Nobody is left behind: neither way to end a group returns before the last part has.
func TestOwnership(t *testing.T) {
	for name, end := range map[string]func(group *parts.Group, tell context.CancelFunc){
		"Wait, told to stop":        func(group *parts.Group, tell context.CancelFunc) { tell(); _ = group.Wait() },
		"Wait, after a part failed": func(group *parts.Group, _ context.CancelFunc) { group.Go("fail", atOnce(errBroken)); _ = group.Wait() },
		"Stop":                      func(group *parts.Group, _ context.CancelFunc) { group.Stop() },
		"Stop, told to stop":        func(group *parts.Group, tell context.CancelFunc) { tell(); group.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, tell := context.WithCancel(t.Context())
				defer tell()
				group, _ := parts.New(ctx)
				release := make(chan struct{})
				group.Go("linger", func(ctx context.Context) error {
					<-ctx.Done()
					<-release
					return nil
				})
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					end(group, tell)
				}()
				synctest.Wait()
				select {
				case <-ended:
					t.Error("a part still runs")
				default:
				}
				close(release)
				<-ended
			})
		})
	}
}

func TestAwait(t *testing.T) {
	closed, open := make(chan struct{}), make(chan struct{})
	close(closed)
	for name, c := range map[string]struct {
		ready []<-chan struct{}
		part  func(context.Context) error
		want  bool
		err   error
	}{
		"nothing":                {part: untilTold(nil), want: true},
		"all are ready":          {ready: []<-chan struct{}{closed, closed}, part: untilTold(nil), want: true},
		"a part fails meanwhile": {ready: []<-chan struct{}{closed, open}, part: atOnce(errBroken), err: errBroken},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, tell := context.WithCancel(t.Context())
			defer tell()
			group, _ := parts.New(ctx)
			defer group.Stop()
			group.Go("part", c.part)
			if got := group.Await(c.ready...); got != c.want {
				t.Errorf("reports %v, want %v", got, c.want)
			}
			tell()
			if err := group.Wait(); !errors.Is(err, c.err) {
				t.Errorf("then answers %v, want %v", err, c.err)
			}
		})
	}
	t.Run("waits for the last", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			group, _ := parts.New(t.Context())
			defer group.Stop()
			first, last := make(chan struct{}), make(chan struct{})
			close(first)
			answer := make(chan bool, 1)
			go func() { answer <- group.Await(first, last) }()
			synctest.Wait()
			if len(answer) != 0 {
				t.Error("does not wait")
			}
			close(last)
			if !<-answer {
				t.Error("reports false")
			}
		})
	})
	t.Run("gives up when told to stop", func(t *testing.T) {
		ctx, tell := context.WithCancel(t.Context())
		group, _ := parts.New(ctx)
		tell()
		if group.Await(open) {
			t.Error("reports true")
		}
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
}
