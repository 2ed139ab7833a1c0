package tc_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"agentyard.dev/libs/tc"
)

// packet is what a filter may ask about.
type packet struct {
	src, dst         netip.Addr
	protocol, dscp   uint8
	srcPort, dstPort uint16
	options, later   bool // IPv4: has options, is a later fragment
}

// bytes is the packet from the IP header on.
func (p packet) bytes() []byte {
	b := make([]byte, 64)
	ports := 20
	if p.src.Is4() {
		b[0] = 0x45
		if p.options {
			b[0], ports = 0x46, 24
		}
		b[1] = p.dscp<<2 | 1 // with a bit of congestion notification
		b[6] = 0x40          // don't fragment
		if p.later {
			b[7] = 100
		}
		b[9] = p.protocol
		copy(b[12:], p.src.AsSlice())
		copy(b[16:], p.dst.AsSlice())
	} else {
		ports = 40
		binary.BigEndian.PutUint32(b, 6<<28|uint32(p.dscp)<<22|1<<20|0xabcde)
		b[6] = p.protocol
		copy(b[8:], p.src.AsSlice())
		copy(b[24:], p.dst.AsSlice())
	}
	binary.BigEndian.PutUint16(b[ports:], p.srcPort)
	binary.BigEndian.PutUint16(b[ports+2:], p.dstPort)
	return b
}

// asU32 is what the kernel's u32 does with the selectors.
func asU32(f tc.Filter, p packet) bool {
	if p.src.Is4() != (f.Family == tc.IPv4) {
		return false // the filter's protocol
	}
	b := p.bytes()
selectors:
	for _, s := range f.Selectors() {
		for _, w := range s {
			if binary.BigEndian.Uint32(b[w.Offset:])&w.Mask != w.Value {
				continue selectors
			}
		}
		return true
	}
	return false
}

// asMeant is what the filter's documentation says.
func asMeant(f tc.Filter, p packet) bool {
	asksPorts := !f.SrcPorts.IsZero() || !f.DstPorts.IsZero()
	in := func(r tc.PortRange, port uint16) bool { return r.IsZero() || r.First <= port && port <= r.Last }
	return p.src.Is4() == (f.Family == tc.IPv4) &&
		(f.Protocol == nil || *f.Protocol == p.protocol) &&
		(f.DSCP == nil || *f.DSCP == p.dscp) &&
		(!f.Src.IsValid() || f.Src.Contains(p.src)) && (!f.Dst.IsValid() || f.Dst.Contains(p.dst)) &&
		in(f.SrcPorts, p.srcPort) && in(f.DstPorts, p.dstPort) &&
		(!asksPorts || !p.options && !p.later)
}

func (w world) address(four bool) netip.Addr {
	if four {
		return netip.AddrFrom4([4]byte{192, 0, byte(w.IntN(3)), byte(w.IntN(256))})
	}
	a := netip.MustParseAddr("2001:db8::").As16()
	a[5], a[9], a[15] = byte(w.IntN(2)), byte(w.IntN(2)), byte(w.IntN(2))
	return netip.AddrFrom16(a)
}

// TestSelectors sends packets through random filters: u32 takes exactly those that are meant.
func TestSelectors(t *testing.T) {
	seed := rand.Uint64()
	w := world{rand.New(rand.NewPCG(seed, 2))}
	taken := 0
	for range 1000 {
		four := w.one(2)
		f := tc.Filter{Family: tc.IPv6}
		if four {
			f.Family = tc.IPv4
		}
		if !w.one(3) {
			f.Src = netip.PrefixFrom(w.address(four), w.IntN(w.address(four).BitLen()+1)).Masked()
		}
		if w.one(3) {
			f.Dst = netip.PrefixFrom(w.address(four), w.IntN(w.address(four).BitLen()+1)).Masked()
		}
		if w.one(2) {
			number := []uint8{6, 17}[w.IntN(2)]
			f.Protocol = &number
			if w.one(2) {
				first := 1 + w.IntN(300)
				f.SrcPorts = tc.PortRange{First: uint16(first), Last: uint16(first + w.IntN(300))}
			}
			if w.one(3) {
				f.DstPorts = tc.PortRange{First: 1, Last: uint16(1 + w.IntN(65535))}
			}
		}
		if w.one(3) {
			dscp := uint8(w.IntN(4))
			f.DSCP = &dscp
		}
		for range 20 {
			four := w.one(10) != four // of the other family, now and then
			p := packet{
				src: w.address(four), dst: w.address(four), protocol: []uint8{6, 17}[w.IntN(2)], dscp: uint8(w.IntN(4)),
				srcPort: uint16(w.IntN(600)), dstPort: uint16(w.IntN(65536)),
			}
			if four {
				p.options, p.later = w.one(8), w.one(8)
			}
			got, want := asU32(f, p), asMeant(f, p)
			if got != want {
				t.Fatalf("seed %d: %+v on %+v: %v, want %v; selectors %v", seed, f, p, got, want, f.Selectors())
			}
			if got {
				taken++
			}
		}
	}
	if taken < 300 {
		t.Errorf("only %d packets were taken: the test shows little", taken)
	}
}

// TestMatches holds that several matches are alternatives, and that all criteria of one are asked.
func TestMatches(t *testing.T) {
	p := built(t, tc.NewPolicy("p").Download(50*tc.Mbit).Upload(50*tc.Mbit).
		Class(tc.Class{Name: "first", Match: []tc.Match{
			{CIDR: tc.CIDR("192.0.2.0/24"), Ports: []tc.PortRange{tc.Port(443), {First: 8000, Last: 8099}}, Protocol: "tcp"},
			{CIDR: tc.CIDR("2001:db8::/32"), DSCP: "ef"},
		}}).
		Class(tc.Class{Name: "second", Match: []tc.Match{{Ports: []tc.PortRange{tc.Port(443)}, Direction: tc.Upload}}}).
		Class(tc.Class{Name: "rest", Default: true}))
	plan, _, err := tc.Compile([]tc.Policy{p}, ofAcme, able, noon)
	if err != nil {
		t.Fatal(err)
	}
	class := func(d tc.Direction, peer, own string, protocol, dscp uint8, peerPort uint16) string {
		tree := plan.Tree(d)
		sent := packet{src: netip.MustParseAddr(peer), dst: netip.MustParseAddr(own), protocol: protocol, dscp: dscp, srcPort: peerPort, dstPort: 50000}
		if d == tc.Upload {
			sent.src, sent.dst, sent.srcPort, sent.dstPort = sent.dst, sent.src, sent.dstPort, sent.srcPort
		}
		minor := tree.Default
		for _, f := range tree.Filters {
			if asU32(f, sent) {
				minor = f.Class
				break
			}
		}
		for _, l := range tree.Leaves {
			if l.Minor == minor {
				return l.Class
			}
		}
		return "none"
	}
	const four, six = "10.0.0.2", "fd00::2"
	for _, tt := range []struct {
		d              tc.Direction
		peer, own      string
		protocol, dscp uint8
		port           uint16
		want           string
	}{
		{tc.Download, "192.0.2.7", four, 6, 0, 443, "first"},
		{tc.Upload, "192.0.2.7", four, 6, 0, 443, "first"},
		{tc.Download, "192.0.2.7", four, 6, 0, 8050, "first"},
		{tc.Download, "192.0.2.7", four, 6, 0, 8100, "rest"},  // the port is not its
		{tc.Download, "192.0.2.7", four, 17, 0, 443, "rest"},  // nor is the protocol
		{tc.Download, "192.0.3.7", four, 6, 0, 443, "rest"},   // nor the address
		{tc.Download, "192.0.2.7", four, 17, 46, 443, "rest"}, // one criterion of each match is no match
		{tc.Upload, "192.0.2.7", four, 17, 0, 443, "second"},
		{tc.Upload, "192.0.3.7", four, 6, 0, 443, "second"},
		{tc.Download, "2001:db8::7", six, 17, 46, 9, "first"},
		{tc.Upload, "2001:db8::7", six, 17, 46, 443, "first"}, // the first class that matches
		{tc.Upload, "2001:db8::7", six, 17, 0, 443, "second"},
		{tc.Download, "2001:db8::7", six, 17, 0, 443, "rest"},
		{tc.Download, "2001:db9::7", six, 17, 46, 9, "rest"},
	} {
		if got := class(tt.d, tt.peer, tt.own, tt.protocol, tt.dscp, tt.port); got != tt.want {
			t.Errorf("%+v is of class %s", tt, got)
		}
	}
}

func TestMasks(t *testing.T) {
	for _, r := range []tc.PortRange{
		{First: 1, Last: 1}, {First: 1, Last: 65535}, {First: 8000, Last: 8080}, {First: 1024, Last: 2047},
		{First: 65535, Last: 65535}, {First: 32768, Last: 65535}, {First: 3, Last: 4},
	} {
		masks := r.Masks()
		if len(masks) > 30 {
			t.Errorf("%s takes %d masks", r, len(masks))
		}
		for port := 0; port < 1<<16; port += 1 + port%3 { // most of them
			in := 0
			for _, m := range masks {
				if uint16(port)&m.Mask == m.Value {
					in++
				}
			}
			if want := port >= int(r.First) && port <= int(r.Last); want != (in == 1) || in > 1 {
				t.Fatalf("%s: port %d is in %d of %v", r, port, in, masks)
			}
		}
	}
}
