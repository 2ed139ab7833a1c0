package tcagent

import (
	"context"
	"slices"
	"time"

	json "github.com/go-json-experiment/json/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
)

const (
	countEvery = time.Second
	// countAll is how many batches after which all sessions are in one, for who has just begun to listen.
	countAll = 10
	// countBatch is how many sessions one message carries: some tens of kilobytes.
	countBatch = 100
)

// count reads the counters of every session each second, adds them to the node's metrics and publishes them, until ctx ends.
func (s *Service) count(ctx context.Context) error {
	every := time.NewTicker(countEvery)
	defer every.Stop()
	last := map[string]api.TrafficSessionCounters{}
	limits, nextLimits := map[string][]api.TrafficLimitCount{}, 0
	for n := 0; ; n++ {
		select {
		case <-every.C:
		case <-ctx.Done():
			return nil
		}
		now, err := s.counters()
		if err != nil {
			s.log.WarnContext(ctx, "read counters", "err", err)
			continue
		}
		if n >= nextLimits {
			if limits, err = s.limits(); err != nil {
				s.log.WarnContext(ctx, "read limits", "err", err)
			}
			nextLimits = n + 1 + len(limits)/limitsASecond
		}
		for i := range now {
			now[i].Limits = limits[now[i].Session]
		}
		s.publish(changed(last, now, n%countAll == 0))
		last = s.measure(last, now)
	}
}

// counted is a session whose counters are read.
type counted struct {
	id               string
	on               kernel.Interface
	download, upload map[tc.Minor]string // the names of its classes
	shares           shares
}

func (s *Service) counters() ([]api.TrafficSessionCounters, error) {
	s.mu.Lock()
	var list []counted
	for id, n := range s.sessions {
		if n.on != nil && n.plan != nil && !n.gone {
			list = append(list, counted{id, *n.on, names(n.plan.Download), names(n.plan.Upload), n.held})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b counted) int { return a.on.Index - b.on.Index })
	on := make([]kernel.Interface, len(list))
	for i, c := range list {
		on[i] = c.on
	}
	read, err := s.kernel.Count(on)
	if err != nil {
		return nil, err
	}
	out := make([]api.TrafficSessionCounters, len(list))
	for i, c := range list {
		out[i] = api.TrafficSessionCounters{
			Session: c.id, Download: named(c.download, read[i].Download), Upload: named(c.upload, read[i].Upload),
			DownloadNow: uint64(c.shares.download), UploadNow: uint64(c.shares.upload),
		}
	}
	return out, nil
}

func names(t *tc.Tree) map[tc.Minor]string {
	if t == nil {
		return nil
	}
	out := make(map[tc.Minor]string, len(t.Leaves))
	for _, l := range t.Leaves {
		out[l.Minor] = l.Class
	}
	return out
}

// named are the counters of the classes that the plan has: in the middle of a change there may be others.
func named(classes map[tc.Minor]string, read []kernel.ClassCounters) (out []api.TrafficClassCounters) {
	for _, c := range read {
		if name, ok := classes[c.Minor]; ok {
			out = append(out, api.TrafficClassCounters{
				Class: name, Bytes: c.Bytes, Packets: c.Packets, Drops: c.Drops, Backlog: uint64(c.Backlog), Borrowed: c.Borrowed,
			})
		}
	}
	return out
}

// changed are the sessions whose counters differ from the last ones; all of them when all is set.
func changed(last map[string]api.TrafficSessionCounters, now []api.TrafficSessionCounters, all bool) []api.TrafficSessionCounters {
	if all {
		return now
	}
	var out []api.TrafficSessionCounters
	for _, c := range now {
		before := last[c.Session]
		if !slices.Equal(before.Download, c.Download) || !slices.Equal(before.Upload, c.Upload) ||
			before.DownloadNow != c.DownloadNow || before.UploadNow != c.UploadNow || !slices.Equal(before.Limits, c.Limits) {
			out = append(out, c)
		}
	}
	return out
}

// publish sends counters; what is lost, the next second has.
func (s *Service) publish(list []api.TrafficSessionCounters) {
	at := time.Now().UTC()
	for batch := range slices.Chunk(list, countBatch) {
		data, err := json.Marshal(api.TrafficCounters{Node: s.cfg.Node, At: at, Sessions: batch})
		if err == nil {
			err = s.deps.Bus.Publish(api.LiveCountersPrefix+s.token, data)
		}
		if err != nil {
			s.log.Debug("publish counters", "err", err)
			return
		}
	}
}

// measure adds what was counted since the last time to the node's metrics, by class, and returns what is now.
func (s *Service) measure(last map[string]api.TrafficSessionCounters, now []api.TrafficSessionCounters) map[string]api.TrafficSessionCounters {
	next := make(map[string]api.TrafficSessionCounters, len(now))
	backlog := map[[2]string]uint64{}
	for _, c := range now {
		next[c.Session] = c
		before := last[c.Session]
		for _, d := range []struct {
			name        string
			before, now []api.TrafficClassCounters
		}{{string(tc.Download), before.Download, c.Download}, {string(tc.Upload), before.Upload, c.Upload}} {
			for _, class := range d.now {
				label := s.metrics.label(class.Class)
				i := slices.IndexFunc(d.before, func(b api.TrafficClassCounters) bool { return b.Class == class.Class })
				var old api.TrafficClassCounters
				if i >= 0 && d.before[i].Bytes <= class.Bytes { // else the class was made anew
					old = d.before[i]
				}
				s.metrics.bytes.WithLabelValues(label, d.name).Add(float64(class.Bytes - old.Bytes))
				s.metrics.packets.WithLabelValues(label, d.name).Add(more(old.Packets, class.Packets))
				s.metrics.drops.WithLabelValues(label, d.name).Add(more(old.Drops, class.Drops))
				s.metrics.borrowed.WithLabelValues(label, d.name).Add(more(old.Borrowed, class.Borrowed))
				backlog[[2]string{label, d.name}] += class.Backlog
			}
		}
	}
	s.metrics.backlog.Reset()
	for at, bytes := range backlog {
		s.metrics.backlog.WithLabelValues(at[0], at[1]).Set(float64(bytes))
	}
	return next
}

func more(before, now uint64) float64 {
	if now < before {
		return 0
	}
	return float64(now - before)
}
