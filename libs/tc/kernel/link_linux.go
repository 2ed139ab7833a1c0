package kernel

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// link is a network device.
type link struct {
	index   int
	name    string
	kind    string // "veth", "ifb", …
	alias   string // for people, and for who knows its prefix
	qdisc   string // the kind of its root
	up      bool
	group   uint32
	peer    int   // IFLA_LINK: of a veth, the other side's index
	foreign bool  // the peer is in another network namespace
	peerNS  int32 // which one, in the numbers of l's own
}

// ifbGroup is the group of our IFB devices, by which they are known (ip link show group 24953), besides their name.
const (
	ifbGroup  = 0x6179
	ifbPrefix = "ayu"
	skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS

	sizeofIfinfomsg = 16
	infoKind        = 1 // IFLA_INFO_KIND
)

func ifbName(device int) string { return ifbPrefix + strconv.Itoa(device) }

func linkMessage(kind, flags uint16, index int, state, change uint32) *encoder {
	return newMessage(kind, flags, unix.AF_UNSPEC, uint32(index), state, change)
}

func readLink(s *socket, index int, name string) (link, bool, error) {
	e := linkMessage(unix.RTM_GETLINK, 0, index, 0, 0)
	if name != "" {
		e.text(unix.IFLA_IFNAME, name)
	}
	got, ok, err := s.get(e.uint32(unix.IFLA_EXT_MASK, skipStats).end())
	if err != nil || !ok {
		if err != nil {
			err = fmt.Errorf("read device %d %s: %w", index, name, err)
		}
		return link{}, false, err
	}
	l, err := decodeLink(got.body)
	return l, err == nil, err
}

func readLinks(s *socket) (found []link, err error) {
	m := linkMessage(unix.RTM_GETLINK, 0, 0, 0, 0).uint32(unix.IFLA_EXT_MASK, skipStats).end()
	err = s.dump(m, func() { found = nil }, func(got received) error {
		l, err := decodeLink(got.body)
		found = append(found, l)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read devices: %w", err)
	}
	return found, nil
}

func decodeLink(body []byte) (link, error) {
	if len(body) < sizeofIfinfomsg {
		return link{}, errMalformed
	}
	l := link{index: int(int32(native.Uint32(body[4:]))), up: native.Uint32(body[8:])&unix.IFF_UP != 0}
	for kind, v := range attrs(body[sizeofIfinfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.name = attrText(v)
		case unix.IFLA_IFALIAS:
			l.alias = attrText(v)
		case unix.IFLA_QDISC:
			l.qdisc = attrText(v)
		case unix.IFLA_LINK:
			l.peer = int(int32(attrUint32(v)))
		case unix.IFLA_LINK_NETNSID:
			l.foreign, l.peerNS = true, int32(attrUint32(v))
		case unix.IFLA_GROUP:
			l.group = attrUint32(v)
		case unix.IFLA_LINKINFO:
			for kind, v := range attrs(v) {
				if kind == infoKind {
					l.kind = attrText(v)
				}
			}
		}
	}
	return l, nil
}

// oursFor returns the index of the device whose upload passes l, if l is one of our IFBs.
func (l link) oursFor() (device int, ok bool) {
	rest, ok := strings.CutPrefix(l.name, ifbPrefix)
	if !ok || l.kind != "ifb" || l.group != ifbGroup {
		return 0, false
	}
	device, err := strconv.Atoi(rest)
	return device, err == nil
}

func ifbAdd(name string) message {
	e := linkMessage(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, unix.IFF_UP, unix.IFF_UP)
	return e.text(unix.IFLA_IFNAME, name).uint32(unix.IFLA_GROUP, ifbGroup).
		nest(unix.IFLA_LINKINFO, func(e *encoder) { e.text(infoKind, "ifb") }).end()
}

func linkUp(index int) message {
	return linkMessage(unix.RTM_NEWLINK, 0, index, unix.IFF_UP, unix.IFF_UP).end()
}

func linkDel(index int) message {
	return linkMessage(unix.RTM_DELLINK, 0, index, 0, 0).end()
}

// namespaceNumber is what a network namespace calls another, by a file of that other; -1: nothing yet.
func namespaceNumber(s *socket, path string) (int32, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	const numberOf, byFile = 1, 3 // NETNSA_NSID, NETNSA_FD
	got, ok, err := s.get(newMessage(unix.RTM_GETNSID, 0, unix.AF_UNSPEC).uint32(byFile, uint32(fd)).end())
	if err != nil || !ok || len(got.body) < 4 {
		return -1, err
	}
	for kind, v := range attrs(got.body[4:]) {
		if kind == numberOf {
			return int32(attrUint32(v)), nil
		}
	}
	return -1, nil
}

// readAddresses are those of all devices of a namespace, but its loopback's and IPv6's link-local ones.
func readAddresses(s *socket) (found []netip.Addr, err error) {
	const sizeofIfaddrmsg = 8
	m := newMessage(unix.RTM_GETADDR, 0, 0, 0).end()
	err = s.dump(m, func() { found = nil }, func(got received) error {
		if len(got.body) < sizeofIfaddrmsg {
			return errMalformed
		}
		for kind, v := range attrs(got.body[sizeofIfaddrmsg:]) {
			if kind != unix.IFA_ADDRESS {
				continue
			}
			if a, ok := netip.AddrFromSlice(v); ok && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
				found = append(found, a)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	return found, nil
}
