package gateway

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// front stands before net/http on the API's address. As long as a connection's requests are simple reads of a session's own API, which is what
// clients poll, front answers them itself (fast.go): a quarter of the processor time. At the first request that is anything else,
// or that ends in anything but success, it hands the connection with all that was read of it to net/http for good. So what
// front understands it has checked in full, and what it does not understand it does not judge.
type front struct {
	g    *Gateway
	ln   net.Listener
	fast bool // else everything is net/http's

	handed chan net.Conn
	done   chan struct{}
	once   sync.Once
	work   sync.WaitGroup

	mu       sync.Mutex
	conns    map[*frontConn]struct{}
	stopping bool
}

// frontConn is one connection, while it is front's.
type frontConn struct {
	net.Conn
	f       *front
	br      *bufio.Reader
	ip      string
	ipKey   string // of its bucket
	out     []byte
	key     []byte    // pollKey's
	readBy  time.Time // the deadlines that are set
	writeBy time.Time

	// What the request before had, since the next one has mostly the same.
	host    string
	cred    string
	session string
	caller  *caller
	checked time.Time // when caller was last found good
}

// maxFrontHead is the size of a head up to which front looks at it.
const maxFrontHead = 4 << 10

const acceptPause = 50 * time.Millisecond

func newFront(g *Gateway, ln net.Listener, fast bool) *front {
	return &front{g: g, ln: ln, fast: fast, handed: make(chan net.Conn), done: make(chan struct{}), conns: map[*frontConn]struct{}{}}
}

// run accepts connections until the listener closes.
func (f *front) run() {
	defer f.stop()
	for {
		c, err := f.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files, for one: it passes
			f.g.log.Warn("accept", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-f.done:
			}
			continue
		}
		ip, _, err := net.SplitHostPort(c.RemoteAddr().String())
		if err != nil {
			ip = c.RemoteAddr().String()
		}
		fc := &frontConn{Conn: c, f: f, br: bufio.NewReaderSize(c, maxFrontHead), ip: ip, ipKey: addressBucket(ip)}
		f.mu.Lock()
		if f.stopping {
			f.mu.Unlock()
			_ = c.Close()
			continue
		}
		f.conns[fc] = struct{}{}
		f.work.Go(fc.serve)
		f.mu.Unlock()
	}
}

// stop ends what front has: connections between requests at once, the others after their answer.
func (f *front) stop() {
	f.once.Do(func() {
		close(f.done)
		_ = f.ln.Close()
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopping = true
	for c := range f.conns {
		_ = c.SetReadDeadline(longAgo)
	}
}

// wait returns when all connections have ended or were handed on, at the latest when ctx ends.
func (f *front) wait(ctx context.Context) {
	cut := context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for c := range f.conns {
			_ = c.Close()
		}
	})
	defer cut()
	f.work.Wait()
}

func (f *front) forget(c *frontConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
}

// serve answers requests until one is for net/http.
func (c *frontConn) serve() {
	defer c.f.forget(c)
	c.readBy = time.Now().Add(headerTimeout)
	_ = c.SetReadDeadline(c.readBy)
	for c.f.fast {
		if _, err := c.br.Peek(1); err != nil {
			_ = c.Close()
			return
		}
		switch c.request() {
		case answered:
			continue
		case broken:
			_ = c.Close()
			return
		}
		break
	}
	c.f.forget(c)
	_ = c.SetDeadline(time.Time{})
	select {
	case c.f.handed <- &framedConn{Conn: &handedConn{Conn: c.Conn, br: c.br}}:
	case <-c.f.done:
		_ = c.Close()
	}
}

// extend moves the deadlines, if they have come near: a timer's update is not free.
func (c *frontConn) extend(now time.Time) {
	if c.readBy.Sub(now) < idleTimeout/2 {
		c.readBy = now.Add(idleTimeout)
		c.f.mu.Lock()
		if !c.f.stopping {
			_ = c.SetReadDeadline(c.readBy)
		}
		c.f.mu.Unlock()
	}
	if w := c.f.g.cfg.WriteTimeout; c.writeBy.Sub(now) < w*3/4 {
		c.writeBy = now.Add(w)
		_ = c.SetWriteDeadline(c.writeBy)
	}
}

// handedConn reads first what front has read ahead.
type handedConn struct {
	net.Conn
	br *bufio.Reader // nil once it is empty
}

func (c *handedConn) Read(p []byte) (int, error) {
	if c.br != nil {
		if n := c.br.Buffered(); n > 0 {
			return c.br.Read(p[:min(n, len(p))])
		}
		c.br = nil
	}
	return c.Conn.Read(p)
}

// CloseWrite lets net/http end a connection gracefully.
func (c *handedConn) CloseWrite() error { return closeWrite(c.Conn) }

func closeWrite(c net.Conn) error {
	if t, ok := c.(interface{ CloseWrite() error }); ok {
		return t.CloseWrite()
	}
	return nil
}

// Accept implements net.Listener for net/http: it returns the connections that front hands on.
func (f *front) Accept() (net.Conn, error) {
	select {
	case c := <-f.handed:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (f *front) Close() error {
	f.stop()
	return nil
}

// Addr implements net.Listener.
func (f *front) Addr() net.Addr { return f.ln.Addr() }
