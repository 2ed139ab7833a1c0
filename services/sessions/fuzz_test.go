package sessions

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/sandbox"
)

func FuzzLabels(f *testing.F) {
	f.Add("team", "red")
	f.Add("agentyard.dev/x", "")
	f.Add("a/b.c-d_e", strings.Repeat("v", 256))
	f.Add("/~", "\x00")
	f.Fuzz(func(t *testing.T, k, v string) {
		var bad problems
		bad.labels("/labels", map[string]string{k: v})
		if bad.Err() == nil && (k == "" || len(k) > maxLabelKey || len(v) > maxLabelValue || strings.HasPrefix(k, reservedLabels) || strings.ContainsAny(k+v, "\x00\n\r") || strings.ContainsAny(k, "= ")) {
			t.Errorf("%q=%q was taken", k, v)
		}
		for _, p := range bad.Problems {
			if !strings.HasPrefix(p.Pointer, "/labels/") || len(p.Pointer) > 300 {
				t.Errorf("pointer %q", p.Pointer)
			}
		}
	})
}

func FuzzProfile(f *testing.F) {
	for _, p := range []string{
		`{"name":"a","agent":{"kind":"demo"}}`,
		`{"name":"a","agent":{"kind":"demo","command":["x"],"args":["y"]},"env":{"A":"b","LD_PRELOAD":"x"},"resources":{"cpus":1.5,"memory_bytes":1073741824,"processes":100},"ttl":"2h","idle_timeout":"10m","isolation":["mount"],"roles":["admin"]}`,
		`{"name":"../..","isolation":["moon"],"roles":["king"],"ttl":"-1s","resources":{"cpus":-1}}`,
		`{"ttl":5}`, `[]`, `null`, `{"env":{"":""}}`,
	} {
		f.Add([]byte(p))
	}
	s := &Service{deps: Deps{
		Kind: func(name string) bool { return name == "demo" },
		Info: RuntimeInfo{Name: "test", Lacks: func(want []string) []string { return sandbox.Capabilities{Mount: true}.Lacks(want) }},
	}}
	f.Fuzz(func(t *testing.T, data []byte) {
		var p api.Profile
		if json.Unmarshal(data, &p) != nil || s.checkProfile("", p) != nil {
			return
		}
		if !api.ValidName(p.Name) || p.Agent.Kind != "demo" || p.TTL < 0 || p.TTL.D() > maxDuration || p.Resources.MemoryBytes < 0 || p.Resources.CPUs < 0 {
			t.Errorf("%s was taken", data)
		}
		for k := range p.Env {
			if strings.HasPrefix(strings.ToUpper(k), "LD_") || strings.ContainsAny(k, "=\x00") {
				t.Errorf("variable %q was taken", k)
			}
		}
		for _, i := range p.Isolation {
			if i != sandbox.Mount {
				t.Errorf("isolation %q was taken", i)
			}
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var q api.Profile
		if err := json.Unmarshal(again, &q); err != nil || s.checkProfile("", q) != nil {
			t.Errorf("%s does not survive: %s, %v", data, again, err)
		}
	})
}

func TestOverdue(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	end := ago(2 * time.Hour)
	cfg := Config{StartTimeout: time.Minute, Retention: time.Hour}
	for name, c := range map[string]struct {
		rec  api.SessionRecord
		want overdue
	}{
		"idle":                         {rec(api.StateRunning, api.ActivityIdle, ago(time.Hour), time.Minute, 0), idleOverdue},
		"idle for less":                {rec(api.StateRunning, api.ActivityIdle, ago(time.Second), time.Minute, 0), notOverdue},
		"idle, with processes":         {background(rec(api.StateRunning, api.ActivityIdle, ago(time.Hour), time.Minute, 0)), notOverdue},
		"paused by the clock just now": {idlePaused(rec(api.StatePaused, "", ago(time.Second), time.Minute, 0)), pausedLately},
		"paused by the clock":          {idlePaused(rec(api.StatePaused, "", ago(time.Hour), time.Minute, 0)), notOverdue},
		"paused just now":              {rec(api.StatePaused, "", ago(time.Second), time.Minute, 0), notOverdue},
		"working":                      {rec(api.StateRunning, api.ActivityWorking, ago(time.Hour), time.Minute, 0), notOverdue},
		"waiting for approval":         {rec(api.StateRunning, api.ActivityApproval, ago(time.Hour), time.Minute, 0), notOverdue},
		"of unknown activity":          {rec(api.StateRunning, "", ago(time.Hour), time.Minute, 0), notOverdue},
		"idle without a timeout":       {rec(api.StateRunning, api.ActivityIdle, ago(time.Hour), 0, 0), notOverdue},
		"old":                          {rec(api.StateRunning, api.ActivityWorking, ago(time.Hour), 0, time.Minute), ttlOverdue},
		"old and paused":               {rec(api.StatePaused, "", ago(time.Hour), 0, time.Minute), ttlOverdue},
		"old and stopping":             {rec(api.StateStopping, "", ago(time.Hour), 0, time.Minute), notOverdue},
		"starting for long":            {rec(api.StateStarting, "", ago(time.Hour), 0, 0), startOverdue},
		"resuming for long":            {rec(api.StateResuming, "", ago(time.Hour), 0, 0), startOverdue},
		"pending for long":             {rec(api.StatePending, "", ago(time.Hour), 0, 0), notOverdue},
		"paused for long":              {rec(api.StatePaused, api.ActivityIdle, ago(time.Hour), time.Minute, 0), notOverdue},
		"ended, and retention is over": {api.SessionRecord{Session: api.Session{State: api.StateTerminated, EndedAt: &end}}, retentionOverdue},
		"ended long ago, of old age":   {api.SessionRecord{Session: api.Session{State: api.StateFailed, EndedAt: &now, TTL: 1, CreatedAt: end}}, notOverdue},
	} {
		if got := overdueAt(cfg, &c.rec, now); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func rec(st api.State, a api.Activity, since time.Time, idle, ttl time.Duration) api.SessionRecord {
	return api.SessionRecord{StateSince: since, Session: api.Session{
		State: st, Activity: a, CreatedAt: since, LastActiveAt: since, IdleTimeout: api.Duration(idle), TTL: api.Duration(ttl),
	}}
}

func background(r api.SessionRecord) api.SessionRecord {
	r.Background = 1
	return r
}

func idlePaused(r api.SessionRecord) api.SessionRecord {
	r.IdlePaused = true
	return r
}
