package kerneltest

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Packet is one packet between a node and its session, as its header says; the zero value is UDP over IPv4.
type Packet struct {
	From     string // the address at the node: "" is Node4; the session's is Session4 or Session6
	FromPort uint16 // at the node
	Port     uint16 // at the session
	TCP      bool
	TOS      byte // IPv4's type of service or IPv6's traffic class: DSCP << 2

	Options  bool // IPv4 options, or an IPv6 extension header, before the ports
	Fragment bool // a later fragment: what stands where ports would be is none
	Short    bool // ends with the IP header
}

// NewQuietLab makes a lab whose interfaces have no addresses, and on which nothing is sent but what the test sends.
func NewQuietLab(t testing.TB) *Lab {
	t.Helper()
	l := &Lab{Node: NewNamespace(t)}
	quiet := func(n *Namespace) {
		err := n.Do(func() error {
			for _, at := range []string{"all", "default"} {
				if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+at+"/disable_ipv6", []byte("1"), 0o600); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatalf("switch IPv6 off in a namespace: %v", err)
		}
	}
	quiet(l.Node)
	l.Session = l.Node.addSession(t, "h0", quiet)
	return l
}

// SendPacket sends one packet from the node to the session; with upload its answer, from the session to the node.
func (l *Lab) SendPacket(t testing.TB, p Packet, upload bool) {
	t.Helper()
	l.SendPackets(t, p, upload, 1)
}

// SendPackets sends a packet n times.
func (l *Lab) SendPackets(t testing.TB, p Packet, upload bool, n int) {
	t.Helper()
	at, device := l.Node, l.Session.Interface.Index
	if upload {
		at, device = l.Session.Namespace, l.Session.Interface.Peer
	}
	frame := p.frame(upload)
	err := at.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		for range n {
			err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: device, Protocol: binary.NativeEndian.Uint16(frame[12:])})
			if err != nil && !errors.Is(err, unix.ENOBUFS) { // which says that it was sent, and dropped on the way out
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("send %+v: %v", p, err)
	}
}

func (p Packet) frame(upload bool) []byte {
	if p.From == "" {
		p.From = Node4
	}
	from := netip.MustParseAddr(p.From)
	to := netip.MustParseAddr(Session4)
	if from.Is6() {
		to = netip.MustParseAddr(Session6)
	}
	fromPort, toPort := p.FromPort, p.Port
	if upload {
		from, to, fromPort, toPort = to, from, toPort, fromPort
	}
	transport := make([]byte, 28)
	binary.BigEndian.PutUint16(transport, fromPort)
	binary.BigEndian.PutUint16(transport[2:], toPort)
	protocol := byte(unix.IPPROTO_UDP)
	if p.TCP {
		protocol = unix.IPPROTO_TCP
	}
	if p.Short {
		transport = nil
	}
	frame := make([]byte, 12, 100)
	if from.Is4() {
		frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_IP)
		header := make([]byte, 24)
		header[0], header[1], header[8], header[9] = 0x45, p.TOS, 1, protocol
		copy(header[12:], from.AsSlice())
		copy(header[16:], to.AsSlice())
		if p.Options {
			header[0] = 0x46
			copy(header[20:], []byte{1, 1, 1, 0}) // no operation, thrice, and the end
		} else {
			header = header[:20]
		}
		if p.Fragment {
			header[7] = 10
		}
		binary.BigEndian.PutUint16(header[2:], uint16(len(header)+len(transport)))
		return append(append(frame, header...), transport...)
	}
	frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_IPV6)
	header := make([]byte, 40)
	header[0], header[1], header[6], header[7] = 0x60|p.TOS>>4, p.TOS<<4, protocol, 1
	copy(header[8:], from.AsSlice())
	copy(header[24:], to.AsSlice())
	switch {
	case p.Options:
		header[6] = unix.IPPROTO_DSTOPTS
		transport = append([]byte{protocol, 0, 1, 4, 0, 0, 0, 0}, transport...)
	case p.Fragment:
		header[6] = unix.IPPROTO_FRAGMENT
		transport = append([]byte{protocol, 0, 0, 80, 0, 0, 0, 1}, transport...)
	}
	binary.BigEndian.PutUint16(header[4:], uint16(len(transport)))
	return append(append(frame, header...), transport...)
}
