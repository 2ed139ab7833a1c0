package bus

import (
	"net"
	"time"
)

// dialer dials for one connection, one after the other. nats.go forgets a socket on which it was not welcomed without closing it: the server would keep it for minutes,
// and where many come back at once both sides would run out of them.
type dialer struct {
	timeout time.Duration
	last    net.Conn
}

// Dial implements [nats.CustomDialer].
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	if d.last != nil {
		_ = d.last.Close() // mostly it is closed already
	}
	conn, err := net.DialTimeout(network, address, d.timeout) //nolint:noctx // nats.go gives none
	d.last = conn
	return conn, err
}
