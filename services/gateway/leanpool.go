package gateway

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// leanPool keeps the idle connections to one runner.
type leanPool struct {
	dial func(context.Context) (net.Conn, error)

	mu     sync.Mutex
	idle   []*leanConn // the last used last
	closed bool
}

type leanConn struct {
	net.Conn
	br     *bufio.Reader
	out    []byte
	fields [24]field // room for an answer's head
	since  time.Time // idle since then; zero: never used
	by     time.Time // the deadline, while nobody else set one
}

// extend gives a round trip that begins now between half of answerTimeout and all of it. Setting a deadline on each would cost more than it tells.
func (c *leanConn) extend(now time.Time) {
	if c.by.Sub(now) < answerTimeout/2 {
		c.by = now.Add(answerTimeout)
		_ = c.SetDeadline(c.by)
	}
}

func (p *leanPool) get(ctx context.Context, fresh bool) (*leanConn, error) {
	if !fresh {
		p.mu.Lock()
		if n := len(p.idle); n > 0 {
			c := p.idle[n-1]
			p.idle[n-1] = nil
			p.idle = p.idle[:n-1]
			p.mu.Unlock()
			return c, nil
		}
		p.mu.Unlock()
	}
	nc, err := p.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("reach the session: %w", err)
	}
	return &leanConn{Conn: nc, br: bufio.NewReaderSize(nc, leanBuffer)}, nil
}

func (p *leanPool) put(c *leanConn, now time.Time) {
	c.since = now
	p.mu.Lock()
	keep := !p.closed && len(p.idle) < maxIdle
	if keep {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		_ = c.Close()
	}
}

// done returns c to the pool if it may be used again.
func (p *leanPool) done(c *leanConn, keep bool, now time.Time) {
	if keep {
		p.put(c, now)
	} else {
		_ = c.Close()
	}
}

// expire closes what has idled since before t.
func (p *leanPool) expire(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.idle) && p.idle[n].since.Before(t) {
		_ = p.idle[n].Close()
		n++
	}
	clear(p.idle[:n])
	p.idle = p.idle[n:]
}

func (p *leanPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.idle {
		_ = c.Close()
	}
	p.idle = nil
}
