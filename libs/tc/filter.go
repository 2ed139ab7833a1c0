package tc

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// Selector is one u32 selector: all of its words must match. A packet matches a Filter when it matches one of its Selectors.
type Selector []Word

// Word compares 32 bits of the packet: those at Offset bytes (a multiple of 4) behind the start of the IP header, as a big-endian
// number, under Mask.
type Word struct {
	Offset int
	Value  uint32
	Mask   uint32
}

// Selectors says what the filter asks as u32 does, ordered and never empty. Ports make it ask that the packet has no IPv4 options, no IPv6
// extension header and is no later fragment, since u32 finds ports at a fixed place only; such packets are the default class's.
func (f Filter) Selectors() []Selector {
	var found []Selector
	for _, src := range f.SrcPorts.Masks() {
		for _, dst := range f.DstPorts.Masks() {
			found = append(found, f.selector(src, dst))
		}
	}
	return found
}

func (f Filter) selector(src, dst PortMask) Selector {
	var s Selector
	ask := func(offset int, value, mask uint32) {
		if mask == 0 {
			return
		}
		for i := range s {
			if s[i].Offset == offset {
				s[i].Value |= value
				s[i].Mask |= mask
				return
			}
		}
		s = append(s, Word{offset, value, mask})
	}
	ports := uint32(src.Mask)<<16 | uint32(dst.Mask)
	if f.Family == IPv6 {
		if f.DSCP != nil {
			ask(0, uint32(*f.DSCP)<<22, 0x0fc00000)
		}
		if f.Protocol != nil {
			ask(4, uint32(*f.Protocol)<<8, 0x0000ff00)
		}
		askPrefix(ask, 8, f.Src)
		askPrefix(ask, 24, f.Dst)
		ask(40, uint32(src.Value)<<16|uint32(dst.Value), ports)
	} else {
		if f.DSCP != nil {
			ask(0, uint32(*f.DSCP)<<18, 0x00fc0000)
		}
		if ports != 0 {
			ask(0, 0x05000000, 0x0f000000) // five words of header: no options
			ask(4, 0, 0x00001fff)          // the first fragment
		}
		if f.Protocol != nil {
			ask(8, uint32(*f.Protocol)<<16, 0x00ff0000)
		}
		askPrefix(ask, 12, f.Src)
		askPrefix(ask, 16, f.Dst)
		ask(20, uint32(src.Value)<<16|uint32(dst.Value), ports)
	}
	if len(s) == 0 { // a prefix of length 0: every packet of the family
		s = Selector{{0, 0, 0}}
	}
	return s
}

func askPrefix(ask func(int, uint32, uint32), offset int, p netip.Prefix) {
	if !p.IsValid() {
		return
	}
	address := p.Masked().Addr().AsSlice()
	for i, left := 0, p.Bits(); left > 0; i, left = i+4, left-32 {
		mask := ^uint32(0)
		if left < 32 {
			mask <<= 32 - left
		}
		ask(offset+i, binary.BigEndian.Uint32(address[i:]), mask)
	}
}

// PortMask matches the ports p with p & Mask == Value.
type PortMask struct {
	Value uint16
	Mask  uint16
}

// Masks covers exactly the range with the fewest masks, ordered; the zero range with the one that asks nothing.
func (p PortRange) Masks() []PortMask {
	if p.IsZero() {
		return []PortMask{{}}
	}
	var masks []PortMask
	for at, last := uint32(p.First), uint32(p.Last); at <= last; {
		size := uint32(1) << min(bits.TrailingZeros32(at|1<<16), 16)
		for at+size-1 > last {
			size >>= 1
		}
		masks = append(masks, PortMask{uint16(at), uint16(^(size - 1))})
		at += size
	}
	return masks
}

// MarshalText is String.
func (p PortRange) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is ParsePorts.
func (p *PortRange) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePorts(string(text))
	return err
}

// ParsePorts reads "443" or "8000-8080", ports from 1 to 65535.
func ParsePorts(s string) (PortRange, error) {
	first, last, ranged := strings.Cut(s, "-")
	if !ranged {
		last = first
	}
	a, err1 := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || a == 0 || b < a || first[0] == '+' || last[0] == '+' {
		return PortRange{}, fmt.Errorf("ports %q are not any; write one from 1 to 65535, such as 443, or a range, such as 8000-8080", s)
	}
	return PortRange{uint16(a), uint16(b)}, nil
}
