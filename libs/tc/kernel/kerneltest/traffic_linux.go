package kerneltest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"agentyard.dev/libs/tc"
)

// Meter counts what arrived somewhere, as bytes of layer 2, headers included, which is what HTB counts.
type Meter struct{ bytes atomic.Uint64 }

// Bytes is what arrived so far.
func (m *Meter) Bytes() uint64 { return m.bytes.Load() }

// Rate measures for d from now on.
func (m *Meter) Rate(d time.Duration) tc.BitsPerSecond { return Rates(d, m)[0] }

// Rates measures several meters over the same time.
func Rates(d time.Duration, ms ...*Meter) []tc.BitsPerSecond {
	before := make([]uint64, len(ms))
	began := time.Now()
	for i, m := range ms {
		before[i] = m.Bytes()
	}
	Wait(d)
	took := time.Since(began)
	out := make([]tc.BitsPerSecond, len(ms))
	for i, m := range ms {
		out[i] = tc.BitsPerSecond(float64(m.Bytes()-before[i]) * 8 / took.Seconds())
	}
	return out
}

// Wait lets real traffic flow for d.
func Wait(d time.Duration) {
	t := time.NewTimer(d)
	<-t.C
	t.Stop()
}

const (
	payload      = 1472 // of a full packet of 1514 bytes over IPv4
	udpSegment   = 103  // UDP_SEGMENT: one write is cut into packets by the kernel, or by nobody
	segments     = 16
	socketBuffer = 32 << 20
	headersIPv4  = 42 // Ethernet, IPv4, UDP
	headersIPv6  = 62
)

// Sink receives what is sent to address ("10.99.0.2:4000") in the namespace, until the test ends.
func (n *Namespace) Sink(t testing.TB, address string) *Meter {
	t.Helper()
	m := &Meter{}
	var conn *net.UDPConn
	err := n.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		return err
	})
	if err != nil {
		t.Fatalf("receive at %s: %v", address, err)
	}
	control(t, conn, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer) })
	headers := uint64(headersIPv4)
	if netip.MustParseAddrPort(address).Addr().Is6() {
		headers = headersIPv6
	}
	background(t, conn, func() {
		buf := make([]byte, 2048)
		for {
			n, _, err := conn.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				m.bytes.Add(uint64(n) + headers)
			}
		}
	})
	return m
}

// Flow is UDP from one side to the other. Rate is what is offered, of layer 2.
type Flow struct {
	From, To string // address and port; port 0 of From: any
	Rate     tc.BitsPerSecond
	DSCP     uint8
}

// Send sends a flow from the namespace until the test ends or stop is called.
func (n *Namespace) Send(t testing.TB, f Flow) (stop func()) {
	t.Helper()
	from, to := netip.MustParseAddrPort(f.From), netip.MustParseAddrPort(f.To)
	var conn *net.UDPConn
	err := n.Do(func() (err error) {
		conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
		return err
	})
	if err != nil {
		t.Fatalf("send from %s to %s: %v", f.From, f.To, err)
	}
	// A queue of many milliseconds can fill up, so that it does not run empty whenever the sender must wait for a processor.
	control(t, conn, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer) })
	size, headers := payload, headersIPv4
	if to.Addr().Is6() {
		size, headers = payload-headersIPv6+headersIPv4, headersIPv6
	}
	control(t, conn, func(fd int) error {
		if to.Addr().Is6() {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(f.DSCP)<<2)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, int(f.DSCP)<<2)
	})
	packet := make([]byte, size)
	frame := size + headers
	if f.Rate >= 50*tc.Mbit {
		control(t, conn, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, udpSegment, size) })
		packet, frame = make([]byte, segments*size), segments*frame
	}
	return background(t, conn, func() {
		gap := time.Duration(float64(frame) * 8 / float64(f.Rate) * float64(time.Second))
		timer := time.NewTimer(0)
		defer timer.Stop()
		for next := time.Now(); ; next = next.Add(gap) {
			if wait := time.Until(next); wait > 0 {
				timer.Reset(wait)
				<-timer.C
			} else if wait < -50*time.Millisecond {
				next = time.Now() // the machine was busy: no burst to make up for it
			}
			if _, err := conn.Write(packet); errors.Is(err, net.ErrClosed) {
				return
			} // others: refused, or no buffer; the next packet tells
		}
	})
}

// background runs f, which ends when c is closed; that is when stop is called or the test ends.
func background(t testing.TB, c io.Closer, f func()) (stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	stop = sync.OnceFunc(func() {
		_ = c.Close()
		<-done
	})
	t.Cleanup(stop)
	return stop
}

func control(t testing.TB, c syscall.Conn, f func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = f(int(fd)) })
		err = errors.Join(err, cerr)
	}
	if err != nil {
		t.Fatal(fmt.Errorf("set up a socket: %w", err))
	}
}
