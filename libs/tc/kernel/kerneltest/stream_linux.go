package kerneltest

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fullSegment of TCP carries 1448 bytes, with timestamps.
const fullSegment = 1448

// Connection is a TCP connection that sends as fast as it goes. Its Meter counts what arrives.
type Connection struct {
	Meter
	out  *net.TCPConn
	stop func()
}

// Stop ends it. The end of the test does so too.
func (c *Connection) Stop() { c.stop() }

// Retransmits are the segments that it had to send again so far.
//
//	ss -ti
func (c *Connection) Retransmits(t testing.TB) int {
	t.Helper()
	var info *unix.TCPInfo
	control(t, c.out, func(fd int) (err error) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	return int(info.Total_retrans)
}

// Stream sends over TCP from one namespace to address in another, as fast as it goes, until the test ends or stop is called.
func Stream(t testing.TB, from, to *Namespace, address string) (m *Meter, stop func()) {
	t.Helper()
	c := Connect(t, from, to, address, "")
	return &c.Meter, c.stop
}

// Connect is Stream with a look at the connection. congestion is who controls it ("cubic"); "": the one that the machine prefers.
func Connect(t testing.TB, from, to *Namespace, address, congestion string) *Connection {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := &Connection{}
	config := net.ListenConfig{}
	config.SetMultipathTCP(false)
	var listener net.Listener
	if err := to.Do(func() (err error) {
		listener, err = config.Listen(ctx, "tcp", address)
		return err
	}); err != nil {
		t.Fatalf("listen at %s: %v", address, err)
	}
	defer listener.Close()
	if err := from.Do(func() error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", listener.Addr().String())
		if err == nil {
			c.out = conn.(*net.TCPConn)
		}
		return err
	}); err != nil {
		t.Fatalf("connect to %s: %v", address, err)
	}
	if congestion != "" {
		control(t, c.out, func(fd int) error {
			return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion)
		})
	}
	in, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	stopIn := background(t, in, func() {
		buf := make([]byte, 256<<10)
		for {
			n, err := in.Read(buf)
			c.bytes.Add(uint64(n) * 1514 / fullSegment)
			if err != nil {
				return
			}
		}
	})
	stopOut := background(t, c.out, func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := c.out.Write(buf); err != nil {
				return
			}
		}
	})
	c.stop = func() { stopOut(); stopIn() }
	return c
}
