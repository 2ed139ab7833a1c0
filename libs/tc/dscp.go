package tc

import (
	"fmt"
	"strconv"
	"strings"
)

// DSCP is a differentiated services code point by its name (RFC 2474, 2597, 3246, 5865, 8622) or number, in lower case: "ef", "af41",
// "cs1", "46". Empty: none.
type DSCP string

// Value is the code point, 0 to 63.
func (d DSCP) Value() (uint8, error) {
	s := string(d)
	switch s {
	case "be", "df":
		return 0, nil
	case "le":
		return 1, nil
	case "ef":
		return 46, nil
	case "va":
		return 44, nil
	}
	if len(s) == 3 && strings.HasPrefix(s, "cs") && '0' <= s[2] && s[2] <= '7' {
		return (s[2] - '0') << 3, nil
	}
	if len(s) == 4 && strings.HasPrefix(s, "af") && '1' <= s[2] && s[2] <= '4' && '1' <= s[3] && s[3] <= '3' {
		return (s[2]-'0')<<3 | (s[3]-'0')<<1, nil
	}
	if v, err := strconv.ParseUint(s, 10, 8); err == nil && v < 64 && s[0] != '+' {
		return uint8(v), nil
	}
	return 0, fmt.Errorf("dscp %q is none; write a name, such as ef, af41 or cs1, or a number from 0 to 63", s)
}

// protocol is an IP protocol that a policy may name.
type protocol struct {
	name     string
	number   uint8
	ports    bool
	families []Family
}

var (
	both      = []Family{IPv4, IPv6}
	protocols = []protocol{
		{"tcp", 6, true, both},
		{"udp", 17, true, both},
		{"sctp", 132, true, both},
		{"dccp", 33, true, both},
		{"icmp", 1, false, []Family{IPv4}},
		{"icmpv6", 58, false, []Family{IPv6}},
		{"esp", 50, false, both},
		{"gre", 47, false, both},
	}
)

func protocolNamed(name string) (protocol, bool) {
	for _, p := range protocols {
		if p.name == name {
			return p, true
		}
	}
	return protocol{}, false
}

func protocolNames() string {
	names := make([]string, len(protocols))
	for i, p := range protocols {
		names[i] = p.name
	}
	return strings.Join(names, ", ")
}
