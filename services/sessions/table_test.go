package sessions

import (
	"slices"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

func TestTable(t *testing.T) {
	// One row per state, one column per next state in the order of states.
	want := map[api.State]string{
		//                  pnd str run png psd res stp trm fld
		api.StatePending:    " .   x   .   .   .   .   x   .   x ",
		api.StateStarting:   " .   .   x   .   .   .   x   .   x ",
		api.StateRunning:    " .   x   .   x   .   .   x   .   x ",
		api.StatePausing:    " .   .   .   .   x   .   x   .   x ",
		api.StatePaused:     " .   .   .   .   .   x   x   .   x ",
		api.StateResuming:   " .   .   x   .   .   .   x   .   x ",
		api.StateStopping:   " .   .   .   .   .   .   .   x   x ",
		api.StateTerminated: " .   .   .   .   .   .   .   .   . ",
		api.StateFailed:     " .   .   .   .   .   .   .   .   . ",
	}
	for _, from := range states {
		for i, to := range states {
			if got, want := mayFollow(from, to), want[from][4*i+1] == 'x'; got != want {
				t.Errorf("%s → %s: %v, want %v", from, to, got, want)
			}
		}
		if mayFollow(from, "unheard-of") || mayFollow("unheard-of", from) {
			t.Errorf("an unknown state is next to %s", from)
		}
		if from.Final() != (len(follows[from]) == 0) {
			t.Errorf("%s: final and what follows disagree", from)
		}
		if !from.Final() && (!mayFollow(from, api.StateFailed) || from != api.StateStopping && !mayFollow(from, api.StateStopping)) {
			t.Errorf("%s cannot be ended", from)
		}
		if takesMessages(from) && (from.Final() || from == api.StateStopping) {
			t.Errorf("%s takes messages that nobody will answer", from)
		}
	}
	// Every state can be reached from the first.
	seen := []api.State{api.StatePending}
	for i := 0; i < len(seen); i++ {
		for _, next := range follows[seen[i]] {
			if !slices.Contains(seen, next) {
				seen = append(seen, next)
			}
		}
	}
	if len(seen) != len(states) {
		t.Errorf("only %v can be reached", seen)
	}
}

func TestSilentAt(t *testing.T) {
	const silence = time.Minute
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	long, short := now.Add(-silence), now.Add(-silence+1)
	entry := func(at time.Time, st api.State, a api.Activity) *bus.Entry[api.SessionRecord] {
		e := &bus.Entry[api.SessionRecord]{}
		e.At, e.State.State, e.State.Activity = at, st, a
		return e
	}
	for name, c := range map[string]struct {
		silence time.Duration
		e       *bus.Entry[api.SessionRecord]
		then    time.Time
		want    bool
	}{
		"silent":            {silence, entry(long, api.StateRunning, api.ActivityWorking), long, true},
		"never":             {0, entry(long, api.StateRunning, api.ActivityWorking), long, false},
		"heard":             {silence, entry(short, api.StateRunning, api.ActivityWorking), long, false},
		"listening shortly": {silence, entry(long, api.StateRunning, api.ActivityWorking), short, false},
		"idle":              {silence, entry(long, api.StateRunning, api.ActivityIdle), long, false},
		"asks a person":     {silence, entry(long, api.StateRunning, api.ActivityApproval), long, false},
		"starts":            {silence, entry(long, api.StateStarting, api.ActivityWorking), long, false},
	} {
		if got := silentAt(Config{Silence: c.silence}, c.e, c.then, now); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}
