package process

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
)

// addresses gives each runner an address of the pool, in which the first is the machine's own. Where sessions have the machine's network there is none: of nil
// each runner has no network, and nothing is to be kept or given back.
type addresses struct {
	pool     netip.Prefix
	pool6    netip.Prefix // not valid: sessions have no IPv6
	loopback []string
	hold     time.Duration

	mu    sync.Mutex
	taken map[netip.Addr]bool
	last  netip.Addr // given out; the next one is another's even when this one is free again
}

// The pool's size: a /8 has more addresses than a machine can have sessions, a /30 has none.
const (
	largestPool  = 8
	smallestPool = 29
)

func newAddresses(pool string, loopback []string, hold time.Duration) (*addresses, error) {
	p, err := netip.ParsePrefix(pool)
	if err != nil || !p.Addr().Is4() || p != p.Masked() || p.Bits() < largestPool || p.Bits() > smallestPool {
		return nil, fmt.Errorf("-sessions.network-pool: %q is no IPv4 network of /%d to /%d, such as %s", pool, largestPool, smallestPool, DefaultConfig().NetworkPool)
	}
	for _, a := range loopback {
		if at, err := netip.ParseAddrPort(a); err != nil || !at.Addr().IsLoopback() || at.Port() == 0 {
			return nil, fmt.Errorf("-sessions.network-loopback: %q is no address and port on loopback, such as 127.0.0.1:11434", a)
		}
	}
	a := &addresses{pool: p, loopback: loopback, hold: hold, taken: map[netip.Addr]bool{}}
	a.last = a.gateway()
	return a, nil
}

func (a *addresses) gateway() netip.Addr { return a.pool.Addr().Next() }

// free reports an error when the machine has a network that overlaps with the pool.
func (a *addresses) free() error {
	have, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, h := range have {
		p, err := netip.ParsePrefix(h.String())
		if err == nil && p.Overlaps(a.pool) && p.Addr() != a.gateway() {
			return fmt.Errorf("the pool %s overlaps with the machine's network %s; choose another with -sessions.network-pool", a.pool, p.Masked())
		}
	}
	return nil
}

// take returns a network for one runner.
func (a *addresses) take() (launch.Network, error) {
	if a == nil {
		return launch.Network{}, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	at := a.last
	for range 1 << (32 - a.pool.Bits()) {
		if at = at.Next(); !a.pool.Contains(at.Next()) { // the last is the broadcast address
			at = a.gateway().Next()
		}
		if !a.taken[at] {
			a.taken[at], a.last = true, at
			n := launch.Network{Address: at.String(), Gateway: a.gateway().String(), Loopback: a.loopback, Hold: api.Duration(a.hold)}
			if a.pool6.IsValid() {
				n.Address6, n.Gateway6 = a.beside(at).String(), a.beside(a.gateway()).String()
			}
			return n, nil
		}
	}
	return launch.Network{}, api.Errorf(api.CodeExhausted, "no address is left in %s for another session's network", a.pool)
}

// keep notes that a runner of an earlier process has the address.
func (a *addresses) keep(address string) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if at, err := netip.ParseAddr(address); err == nil {
		a.taken[at] = true
	}
}

func (a *addresses) giveBack(address string) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if at, err := netip.ParseAddr(address); err == nil {
		delete(a.taken, at)
	}
}

// uniqueLocal is a network of unique local addresses (RFC 4193) that follows from the pool, so that the next runtime here has the same.
func uniqueLocal(pool netip.Prefix) netip.Prefix {
	sum := sha256.Sum256([]byte("agentyard " + pool.String()))
	to := [16]byte{0xfd}
	copy(to[1:6], sum[:])
	return netip.PrefixFrom(netip.AddrFrom16(to), 64)
}

// beside is the IPv6 address that goes with one of the pool: it ends with that.
func (a *addresses) beside(at netip.Addr) netip.Addr {
	to, low := a.pool6.Addr().As16(), at.As4()
	copy(to[12:], low[:])
	return netip.AddrFrom16(to)
}

// table names what this machine's packet filter holds for the pool.
func (a *addresses) table() string {
	return "agentyard_" + strings.NewReplacer(".", "_", "/", "_").Replace(a.pool.String())
}

// openNetwork makes the machine route for sessions, and returns nil, with the reason, when it cannot.
func (r *Runtime) openNetwork() (*addresses, error) {
	a, err := newAddresses(r.cfg.NetworkPool, r.cfg.NetworkLoopback, r.cfg.NetworkHold)
	if err != nil {
		return nil, err
	}
	if err := possible6(); err != nil {
		r.log.Info("sessions have no IPv6", "err", err)
	} else {
		a.pool6 = uniqueLocal(a.pool)
	}
	if err := errors.Join(a.free(), r.route(a)); err != nil {
		return nil, err
	}
	return a, nil
}
