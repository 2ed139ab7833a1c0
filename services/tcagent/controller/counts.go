package controller

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	json "github.com/go-json-experiment/json/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

const (
	// countsKept is how long a session's last counters are shown. Node agents repeat all of them every ten seconds.
	countsKept = 25 * time.Second
	// maxCounted bounds the sessions of which counters are kept.
	maxCounted = 200_000
	// tidyEvery is how often those of sessions that ended are dropped.
	tidyEvery = time.Minute
)

// counts keeps the newest counters of each session, as node agents publish them. What is lost the next second brings.
type counts struct {
	mu       sync.Mutex
	sessions map[string]*counted
}

// counted is one session's last two counters: between them lies the rate.
type counted struct {
	heard     time.Time // when the last message came, by this process's clock
	was, is   api.TrafficSessionCounters
	wasAt, at time.Time // by the node's clock
}

func newCounts() *counts { return &counts{sessions: map[string]*counted{}} }

// listen follows the counters of all nodes until ctx ends.
func (c *Controller) listen(ctx context.Context) error {
	for {
		err := c.deps.Bus.Subscribe(ctx, api.LiveCountersPrefix+"*", func(subject string, _ bus.Header, data []byte) {
			node := strings.TrimPrefix(subject, api.LiveCountersPrefix) // whatever the message says: the bus let only this node publish here
			var batch api.TrafficCounters
			if json.Unmarshal(data, &batch) == nil {
				strange := func(session string) bool {
					_, there := c.planned.Get(bus.Key{Tenant: node, ID: session})
					return !there
				}
				batch.Sessions = slices.DeleteFunc(batch.Sessions, func(s api.TrafficSessionCounters) bool { return strange(s.Session) })
				c.counts.learn(batch, c.deps.Now())
				maps.DeleteFunc(batch.Applied, func(session string, _ api.TrafficPlanApplied) bool { return strange(session) })
				c.announced(node, batch)
			}
		}, nil)
		if err == nil {
			break
		}
		select {
		case <-time.After(time.Second): // the bus is away
		case <-ctx.Done():
			return nil
		}
	}
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.counts.tidy(c.deps.Now())
		case <-ctx.Done():
			return nil
		}
	}
}

// announced takes in what a node's agent says that it will report.
func (c *Controller) announced(node string, batch api.TrafficCounters) {
	if len(batch.Applied) == 0 {
		return
	}
	c.news.learn(node, batch.Applied, c.deps.Now())
	if c.deps.Reported != nil {
		c.deps.Reported(node, api.TrafficNodeRecord{Name: batch.Node, ReportedAt: batch.At, Applied: batch.Applied})
	}
}

func (k *counts) learn(batch api.TrafficCounters, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range batch.Sessions {
		old := k.sessions[s.Session]
		switch {
		case old == nil && len(k.sessions) >= maxCounted:
			continue
		case old == nil:
			old = &counted{was: s, wasAt: batch.At}
			k.sessions[s.Session] = old
		case batch.At.Before(old.at):
			continue // overtaken
		default:
			old.was, old.wasAt = old.is, old.at
		}
		old.is, old.at, old.heard = s, batch.At, now
	}
}

func (k *counts) tidy(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, s := range k.sessions {
		if now.Sub(s.heard) > countsKept {
			delete(k.sessions, id)
		}
	}
}

// of returns a session's counters; nil when nothing was heard of them lately.
func (k *counts) of(session string, now time.Time) *api.TrafficCounts {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.sessions[session]
	if s == nil || now.Sub(s.heard) > countsKept {
		return nil
	}
	// A session that is idle is left out of most messages: what was heard long ago says nothing about this second.
	idle := now.Sub(s.heard) > 3*time.Second
	return &api.TrafficCounts{
		At:       s.at,
		Download: classCounts(s.was.Download, s.is.Download, s.at.Sub(s.wasAt), idle),
		Upload:   classCounts(s.was.Upload, s.is.Upload, s.at.Sub(s.wasAt), idle),
		Limits:   s.is.Limits,
	}
}

func classCounts(was, is []api.TrafficClassCounters, took time.Duration, idle bool) []api.TrafficClassCount {
	var out []api.TrafficClassCount
	for _, c := range is {
		n := api.TrafficClassCount{
			Class: c.Class, Bytes: c.Bytes, Packets: c.Packets, Drops: c.Drops, Backlog: c.Backlog, Borrowed: c.Borrowed, Rate: "0bit",
		}
		i := slices.IndexFunc(was, func(w api.TrafficClassCounters) bool { return w.Class == c.Class })
		if i >= 0 && !idle && took > 0 && c.Bytes >= was[i].Bytes { // less: the class was made anew
			n.Rate = about(float64(c.Bytes-was[i].Bytes) * 8 / took.Seconds())
		}
		out = append(out, n)
	}
	return out
}

// about is a rate for people: three digits.
func about(bits float64) string {
	unit := "bit"
	for _, next := range []string{"kbit", "Mbit", "Gbit"} {
		if bits < 1000 {
			break
		}
		bits, unit = bits/1000, next
	}
	digits := 2
	switch {
	case bits >= 100:
		digits = 0
	case bits >= 10:
		digits = 1
	}
	return strconv.FormatFloat(bits, 'f', digits, 64) + unit
}
