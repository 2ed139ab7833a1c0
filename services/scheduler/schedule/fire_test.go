package schedule

import (
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"agentyard.dev/libs/api"
)

const noon = "2026-05-04T12:00:30Z"

func TestFire(t *testing.T) {
	t.Run("makes a task at each planned time, once", func(t *testing.T) {
		y := newYard(t, noon)
		r := y.start()
		s := r.make(t, spec("* * * * *"))
		for i := range 5 {
			y.clock.Move(time.Minute)
			now := r.state(t, s.ID, "the next fire", upTo(s.Planned.Truncate(time.Minute).Add(time.Duration(i+1)*time.Minute)))
			if err := r.tasks.end(t.Context(), "acme", now.LastTask, api.TaskSucceeded, ""); err != nil {
				t.Fatal(err)
			}
		}
		now := r.state(t, s.ID, "five fires", fired(5))
		sameIDs(t, r.ids(t, s.ID), expected(s.ID, s.Planned.Truncate(time.Minute).Add(time.Minute), 5))
		e, _ := r.view.Get(keyOf(s))
		if task := r.tasks.Recent("acme", s.ID, 1)[0]; now.LastTask != task.ID || task.Owner != ada.ID || task.Command != "true" || e.Verb != "fire" || e.Actor != actor {
			t.Errorf("schedule %+v\ntask %+v", now, task)
		}
	})
	t.Run("skips while a task goes on", func(t *testing.T) {
		y := newYard(t, noon)
		r := y.start()
		s := r.make(t, spec("* * * * *"))
		y.clock.Move(time.Minute)
		first := r.state(t, s.ID, "a fire", fired(1))
		y.clock.Move(time.Minute)
		now := r.state(t, s.ID, "a skipped one", func(s api.Schedule) bool { return s.Skipped == 1 })
		if !strings.Contains(now.LastProblem, first.LastTask) {
			t.Errorf("it does not say why: %q", now.LastProblem)
		}
		if err := r.tasks.end(t.Context(), "acme", first.LastTask, api.TaskSucceeded, ""); err != nil {
			t.Fatal(err)
		}
		y.clock.Move(time.Minute)
		if now = r.state(t, s.ID, "the next one", fired(2)); now.LastProblem != "" {
			t.Errorf("an old problem stays: %q", now.LastProblem)
		}
	})
	t.Run("queues behind a task that goes on", func(t *testing.T) {
		y := newYard(t, noon)
		r := y.start()
		sp := spec("* * * * *")
		sp.Overlap, sp.CatchUp = api.OverlapQueue, api.Duration(time.Hour)
		s := r.make(t, sp)
		y.clock.Move(time.Minute)
		first := r.state(t, s.ID, "a fire", fired(1)).LastTask
		y.clock.Move(time.Minute)
		r.state(t, s.ID, "another", fired(2))
		task := r.tasks.Recent("acme", s.ID, 1)[0]
		if len(task.DependsOn) != 1 || task.DependsOn[0] != first || task.OnFailure != api.ParentRun {
			t.Errorf("it does not wait: %+v", task.TaskSpec)
		}
		y.clock.Move(30 * time.Minute)
		now := r.state(t, s.ID, "the queue's bound", func(s api.Schedule) bool { return s.Fires+s.Skipped == 32 })
		if now.Fires != api.MaxOverlapQueue {
			t.Errorf("%d tasks wait", now.Fires)
		}
	})
	t.Run("cancels a task that goes on", func(t *testing.T) {
		y := newYard(t, noon)
		r := y.start()
		sp := spec("* * * * *")
		sp.Overlap = api.OverlapCancel
		s := r.make(t, sp)
		y.clock.Move(time.Minute)
		first := r.state(t, s.ID, "a fire", fired(1)).LastTask
		y.clock.Move(time.Minute)
		r.state(t, s.ID, "another", fired(2))
		recent := r.tasks.Recent("acme", s.ID, 2)
		if recent[1].ID != first || recent[1].State != api.TaskCancelled || !strings.Contains(recent[1].Reason, s.ID) {
			t.Errorf("the first: %+v", recent[1])
		}
		if d := recent[0].DependsOn; len(d) != 1 || d[0] != first {
			t.Errorf("the second does not wait for its end: %v", d)
		}
	})
	t.Run("keeps trying while tasks cannot be made, until it is too late", func(t *testing.T) {
		y := newYard(t, noon)
		r := y.start()
		sp := spec("0 * * * *")
		sp.CatchUp = api.Duration(20 * time.Minute)
		s := r.make(t, sp)
		r.tasks.fail(api.Errorf(api.CodeUnavailable, "not now"))
		y.clock.Move(time.Hour)
		until(t, "several tries", func() bool {
			y.clock.Move(time.Second)
			return r.tasks.tries() > 3
		})
		r.tasks.fail(nil)
		until(t, "the fire", func() bool {
			y.clock.Move(time.Second)
			e, _ := r.view.Get(keyOf(s))
			return e.State.Fires == 1
		})
		r.tasks.fail(api.Errorf(api.CodeExhausted, "too many"))
		y.clock.Move(time.Hour)
		y.clock.Move(21 * time.Minute)
		now := r.state(t, s.ID, "the missed one", func(s api.Schedule) bool { return s.Missed == 1 })
		if now.Fires != 1 || now.Failures != 0 {
			t.Errorf("%+v", now)
		}
	})
}

func TestCatchUp(t *testing.T) {
	y := newYard(t, noon)
	first := y.start()
	sp := spec("* * * * *")
	sp.CatchUp, sp.Overlap = api.Duration(15*time.Minute), api.OverlapQueue
	s := first.make(t, sp)
	short := first.make(t, spec("0 0 * * *"))
	first.stop()

	y.clock.Move(14*time.Hour + 30*time.Second) // 02:01:00 the next day
	r := y.start()
	now := r.state(t, s.ID, "the fires of the window", func(s api.Schedule) bool { return s.Fires == 16 })
	if want := int64(14*60 - 15); now.Missed != want {
		t.Errorf("%d missed, want %d", now.Missed, want)
	}
	sameIDs(t, r.ids(t, s.ID), expected(s.ID, y.clock.Now().Add(-15*time.Minute), 16))
	if now := r.state(t, short.ID, "the one too late", func(s api.Schedule) bool { return s.Missed == 1 }); now.Fires != 0 {
		t.Errorf("%+v", now)
	}
}

func TestAutoPause(t *testing.T) {
	y := newYard(t, noon)
	r := y.start()
	sp := spec("* * * * *")
	sp.PauseAfter = 3
	t.Run("when tasks fail", func(t *testing.T) {
		s := r.make(t, sp)
		end := func(n int64, state api.TaskState) {
			t.Helper()
			y.clock.Move(time.Minute)
			task := r.state(t, s.ID, "a fire", fired(n)).LastTask
			if err := r.tasks.end(t.Context(), "acme", task, state, "it broke"); err != nil {
				t.Fatal(err)
			}
		}
		end(1, api.TaskFailed)
		end(2, api.TaskSucceeded) // ends the row
		end(3, api.TaskFailed)
		end(4, api.TaskCancelled) // says nothing
		end(5, api.TaskExpired)
		end(6, api.TaskFailed)
		now := r.state(t, s.ID, "the pause", func(s api.Schedule) bool { return s.Paused })
		if !strings.Contains(now.PausedReason, "last 3 tasks failed: it broke") {
			t.Errorf("reason %q", now.PausedReason)
		}
		e, _ := r.view.Get(keyOf(s))
		if e.Verb != VerbAutoPause || e.Reason != now.PausedReason {
			t.Errorf("the ledger says %q %q", e.Verb, e.Reason)
		}
		y.clock.Move(time.Hour)
		resumed, err := r.resume(as(ada), api.ScheduleRef{ID: s.ID})
		if err != nil || resumed.Paused || resumed.PausedReason != "" {
			t.Fatalf("%+v, %v", resumed, err)
		}
		y.clock.Move(time.Minute)
		if now := r.state(t, s.ID, "one fire, none made up for", fired(7)); now.Missed != 0 || now.Paused {
			t.Errorf("%+v", now)
		}
	})
	t.Run("when tasks are refused", func(t *testing.T) {
		s := r.make(t, sp)
		r.tasks.fail(api.Errorf(api.CodeDenied, "not you"))
		defer r.tasks.fail(nil)
		for range 3 {
			y.clock.Move(time.Minute)
		}
		if now := r.state(t, s.ID, "the pause", func(s api.Schedule) bool { return s.Paused }); !strings.Contains(now.PausedReason, "not you") || now.Missed != 3 {
			t.Errorf("%+v", now)
		}
	})
}

func TestClockJumps(t *testing.T) {
	y := newYard(t, noon)
	r := y.start()
	sp := spec("* * * * *")
	sp.Overlap, sp.CatchUp = api.OverlapQueue, api.Duration(time.Hour)
	s := r.make(t, sp)
	y.clock.Move(3 * time.Minute)
	r.state(t, s.ID, "three fires", fired(3))

	y.clock.Move(-2 * time.Minute) // back: 12:01 to 12:03 come again
	for range 8 {
		y.clock.Move(15 * time.Second)
	}
	y.clock.Move(10 * time.Minute) // ahead
	r.state(t, s.ID, "those of the jump", fired(13))
	sameIDs(t, r.ids(t, s.ID), expected(s.ID, s.Planned.Truncate(time.Minute).Add(time.Minute), 13))
}

// TestLeaderLost kills the leader between the two writes of a fire.
func TestLeaderLost(t *testing.T) {
	y := newYard(t, noon)
	first := y.start()
	s := first.make(t, spec("* * * * *"))
	first.tasks.mu.Lock()
	made := make(chan string, 1)
	first.tasks.made = func(id string) {
		first.die()
		made <- id
	}
	first.tasks.mu.Unlock()
	first.leads(t)
	second := y.start()

	y.clock.Move(time.Minute)
	id := <-made
	now := second.state(t, s.ID, "the second's write", fired(1))
	if now.LastTask != id {
		t.Errorf("the first made %s, the second says %s", id, now.LastTask)
	}
	sameIDs(t, second.ids(t, s.ID), []string{id})
	if now.Skipped != 0 {
		t.Error("it took the first's task for an earlier one")
	}
}

// TestKillsAtRandom lets leaders die at random moments, some between the two writes, while time goes on: each planned time has its task.
func TestKillsAtRandom(t *testing.T) {
	const kills, minutes = 6, 30
	y := newYard(t, noon)
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's choice
	var left atomic.Int64
	doomed := func() *replica {
		r := y.start()
		r.tasks.mu.Lock()
		defer r.tasks.mu.Unlock()
		r.tasks.made = func(string) {
			if left.Add(-1) == 0 {
				r.die()
			}
		}
		return r
	}
	left.Store(1 << 40)
	survivor := doomed()
	sp := spec("* * * * *")
	sp.Overlap, sp.CatchUp, sp.Jitter, sp.PauseAfter = api.OverlapCancel, api.Duration(24*time.Hour), api.Duration(50*time.Second), -1
	var all []api.Schedule
	for range 3 {
		all = append(all, survivor.make(t, sp))
	}
	current := survivor
	for range kills {
		dying := current
		dying.leads(t)
		left.Store(int64(1 + rnd.IntN(8)))
		current = doomed()
		for dead := dying.conn.NATS().IsClosed; !dead(); {
			before := left.Load()
			y.clock.Move(2 * time.Minute) // more than a minute and the jitter: something is due
			until(t, "a fire, or death", func() bool { return left.Load() < before || dead() })
		}
		left.Store(1 << 40)
	}
	y.clock.Move(minutes * time.Minute)
	nothingDue := func(s api.Schedule) bool {
		p, err := planOf(s)
		fires, _, _ := p.overdue(s.Planned, y.clock.Now())
		return err == nil && len(fires) == 0
	}
	for _, s := range all {
		now := current.state(t, s.ID, "all fires", nothingDue)
		firstTime := s.Planned.Truncate(time.Minute).Add(time.Minute)
		n := int(now.Planned.Sub(firstTime)/time.Minute) + 1
		if now.Missed != 0 || now.Skipped != 0 || now.Fires != int64(n) {
			t.Errorf("%d fires of %d, %d missed, %d skipped", now.Fires, n, now.Missed, now.Skipped)
		}
		sameIDs(t, current.ids(t, s.ID), expected(s.ID, firstTime, n))
	}
}
