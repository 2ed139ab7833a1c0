package sessions

import (
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

func TestPoolWant(t *testing.T) {
	at := func(text string) time.Time {
		v, err := time.Parse("Mon 2006-01-02 15:04", text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	work := []api.PoolWindow{{Days: []string{"mon", "fri"}, From: "08:00", To: "18:00"}}
	night := []api.PoolWindow{{Days: []string{"fri"}, From: "22:00", To: "06:00"}}
	for name, c := range map[string]struct {
		pool  *api.Pool
		taken int
		now   string
		want  int
	}{
		"no pool":                             {nil, 3, "Mon 2026-11-23 09:00", 0},
		"its size":                            {&api.Pool{Size: 5, Burst: 10}, 0, "Mon 2026-11-23 09:00", 5},
		"a burst":                             {&api.Pool{Size: 5, Burst: 10}, 4, "Mon 2026-11-23 09:00", 9},
		"a large burst":                       {&api.Pool{Size: 5, Burst: 10}, 400, "Mon 2026-11-23 09:00", 15},
		"in its window":                       {&api.Pool{Size: 5, Schedule: work}, 0, "Mon 2026-11-23 08:00", 5},
		"at its end":                          {&api.Pool{Size: 5, Schedule: work}, 0, "Mon 2026-11-23 18:00", 0},
		"on another day":                      {&api.Pool{Size: 5, Schedule: work}, 9, "Tue 2026-11-24 09:00", 0},
		"past midnight, begun the day before": {&api.Pool{Size: 5, Schedule: night}, 0, "Sat 2026-11-28 05:59", 5},
		"past midnight, not begun":            {&api.Pool{Size: 5, Schedule: night}, 0, "Fri 2026-11-27 05:59", 0},
		"all day":                             {&api.Pool{Size: 5, Schedule: []api.PoolWindow{{From: "00:00", To: "00:00"}}}, 0, "Sun 2026-11-22 23:59", 5},
		"in its own time zone":                {&api.Pool{Size: 5, Schedule: work, Timezone: "America/New_York"}, 0, "Mon 2026-11-23 12:59", 0},
		"in its own time zone, later":         {&api.Pool{Size: 5, Schedule: work, Timezone: "America/New_York"}, 0, "Mon 2026-11-23 13:00", 5},
	} {
		if got := poolWant(c.pool, c.taken, at(c.now)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestDemand(t *testing.T) {
	var d demand
	now := time.Now()
	key := bus.Key{Tenant: api.HomeTenant, ID: "p"}
	for i := range 10 {
		d.note(key, now.Add(time.Duration(i)*time.Second))
	}
	if n := d.lately(key, now.Add(9*time.Second)); n != 10 {
		t.Errorf("%d", n)
	}
	if n := d.lately(key, now.Add(burstWindow+4*time.Second)); n != 5 {
		t.Errorf("%d after some time", n)
	}
	if n := d.lately(key, now.Add(time.Hour)); n != 0 || len(d.taken) != 0 {
		t.Errorf("%d after an hour, %d remembered", n, len(d.taken))
	}
}
