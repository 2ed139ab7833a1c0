package auth

import (
	"net/netip"
	"sync"
	"time"
)

// guard counts failed sign-ins per remote address, so that guessing and misconfigured clients cost neither time nor audit
// records. It never holds up a right key: with 200 random bits there is nothing to guess, and whoever shares an address with an
// attacker must not be locked out.
type guard struct {
	mu      sync.Mutex
	buckets map[string]*bucket
}

// The bounds of the guard: what a person mistypes passes, what a program tries does not.
const (
	guardBurst     = 20
	guardEvery     = 3 * time.Second // until one more failure is allowed
	guardAddresses = 10_000
)

type bucket struct {
	failures float64 // not yet forgiven
	at       time.Time
}

func newGuard() *guard { return &guard{buckets: map[string]*bucket{}} }

// fail counts a failure of remote at now. It returns how long remote should wait when it had too many; an unknown
// remote ("": a caller on the bus) is counted like any address.
func (g *guard) fail(remote string, now time.Time) (retryAfter time.Duration) {
	name := network(remote)
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.buckets[name]
	if b == nil {
		if len(g.buckets) >= guardAddresses {
			g.forget(now)
		}
		b = &bucket{at: now}
		g.buckets[name] = b
	}
	b.forgive(now)
	if b.failures >= guardBurst {
		return time.Duration((b.failures - guardBurst + 1) * float64(guardEvery))
	}
	b.failures++
	return 0
}

// spent reports whether one more failure of remote would be too many.
func (g *guard) spent(remote string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.buckets[network(remote)]
	if b == nil {
		return false
	}
	b.forgive(now)
	return b.failures >= guardBurst
}

func (b *bucket) forgive(now time.Time) {
	b.failures = max(0, b.failures-float64(now.Sub(b.at))/float64(guardEvery))
	b.at = now
}

// forget makes room: what is forgiven goes, and if nothing is, any one entry.
func (g *guard) forget(now time.Time) {
	for name, b := range g.buckets {
		if b.forgive(now); b.failures == 0 {
			delete(g.buckets, name)
		}
	}
	for name := range g.buckets {
		if len(g.buckets) < guardAddresses {
			return
		}
		delete(g.buckets, name)
	}
}

// network returns what counts as one remote: an IPv4 address, or the IPv6 /64 that one subscriber has.
func network(remote string) string {
	addr, err := netip.ParseAddr(remote)
	if err != nil {
		return "" // whatever is no address shares one bucket: nobody escapes by making them up
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	p, err := addr.Prefix(64)
	if err != nil {
		return ""
	}
	return p.String()
}
