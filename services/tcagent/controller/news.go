package controller

import (
	"sync"
	"time"

	"agentyard.dev/libs/api"
)

// newsKept is how much longer than node agents take to write their report what they said before is believed.
const newsKept = 30 * time.Second

// news is what nodes' agents said of shared plans, before their entry in NODES says it. What is lost NODES brings some seconds later.
type news struct {
	mu    sync.Mutex
	nodes map[string]*said // by node's token
}

type said struct {
	heard   time.Time // by this process's clock, the last
	applied map[string]api.TrafficPlanApplied
}

func newNews() *news { return &news{nodes: map[string]*said{}} }

func (n *news) learn(node string, applied map[string]api.TrafficPlanApplied, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.nodes[node]
	if s == nil {
		s = &said{applied: applied}
		n.nodes[node] = s
	} else {
		for session, a := range applied {
			s.applied[session] = a
		}
	}
	s.heard = now
}

// reported forgets what a node's report holds by now.
func (n *news) reported(node string, r api.TrafficNodeRecord, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.nodes[node]
	if s == nil {
		return
	}
	for session, a := range s.applied {
		if b, ok := r.Applied[session]; !ok || !a.At.After(b.At) || now.Sub(s.heard) > newsKept {
			delete(s.applied, session)
		}
	}
	if len(s.applied) == 0 {
		delete(n.nodes, node)
	}
}

// newest is what a node says of a session: what it said last, or what it has reported.
func (n *news) newest(node, session string, r api.TrafficNodeRecord) (a api.TrafficPlanApplied, ok bool) {
	a, ok = r.Applied[session]
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.nodes[node]; s != nil {
		if b, said := s.applied[session]; said && (!ok || b.At.After(a.At)) {
			return b, true
		}
	}
	return a, ok
}
