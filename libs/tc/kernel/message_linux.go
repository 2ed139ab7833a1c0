package kernel

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Numbers of include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls,if_link}.h that x/sys/unix does not have.
const (
	attrTypeMask = 0x3fff // NLA_TYPE_MASK: without the flags of nesting and byte order

	attrKind    = 1 // TCA_KIND
	attrOptions = 2
	attrStats2  = 7
	attrChain   = 11

	htbParms     = 1 // TCA_HTB_PARMS
	htbInit      = 2
	htbDirectLen = 5
	htbRate64    = 6
	htbCeil64    = 7

	bpfAct   = 1 // TCA_BPF_ACT
	bpfFD    = 6
	bpfName  = 7
	bpfFlags = 8
	bpfTag   = 10
	bpfID    = 11

	bpfActDirect = 1 // TCA_BPF_FLAG_ACT_DIRECT: the program's result is the verdict

	firstAction    = 1 // the index of an action in its list
	actKind        = 1 // TCA_ACT_KIND
	actOptions     = 2
	mirredParms    = 2 // TCA_MIRRED_PARMS
	egressRedirect = 1 // TCA_EGRESS_REDIR
	sizeofMirred   = 28

	parentRoot    = 0xffffffff // TC_H_ROOT
	parentClsact  = 0xfffffff1 // TC_H_CLSACT, also TC_H_INGRESS
	clsactHandle  = 0xffff0000
	clsactIngress = 0xfffffff2 // TC_H_MIN_INGRESS of clsact
	clsactEgress  = 0xfffffff3
)

var native = binary.NativeEndian

// A message is one rtnetlink request: header, body, attributes. The socket numbers it.
type message []byte

func (m message) kind() uint16 { return native.Uint16(m[4:]) }

// encoder builds a message.
type encoder struct{ b []byte }

func newMessage(kind, flags uint16, body ...uint32) *encoder {
	e := &encoder{b: make([]byte, unix.NLMSG_HDRLEN, 256)}
	native.PutUint16(e.b[4:], kind)
	native.PutUint16(e.b[6:], flags|unix.NLM_F_REQUEST)
	for _, v := range body {
		e.b = native.AppendUint32(e.b, v)
	}
	return e
}

// traffic begins a message about a qdisc, class or filter: its body is a struct tcmsg.
func traffic(kind, flags uint16, device int, handle, parent, info uint32) *encoder {
	return newMessage(kind, flags, unix.AF_UNSPEC, uint32(device), handle, parent, info)
}

// end returns the message with its length.
func (e *encoder) end() message {
	native.PutUint32(e.b, uint32(len(e.b)))
	return e.b
}

func (e *encoder) attr(kind uint16, value []byte) *encoder {
	e.b = native.AppendUint16(e.b, uint16(unix.SizeofRtAttr+len(value)))
	e.b = native.AppendUint16(e.b, kind)
	e.b = append(e.b, value...)
	for len(e.b)%unix.NLMSG_ALIGNTO != 0 {
		e.b = append(e.b, 0)
	}
	return e
}

func (e *encoder) text(kind uint16, s string) *encoder { return e.attr(kind, append([]byte(s), 0)) }

func (e *encoder) uint32(kind uint16, v uint32) *encoder {
	return e.attr(kind, native.AppendUint32(nil, v))
}

func (e *encoder) uint64(kind uint16, v uint64) {
	e.attr(kind, native.AppendUint64(nil, v))
}

// nest puts what f adds into one attribute.
func (e *encoder) nest(kind uint16, f func(*encoder)) *encoder {
	at := len(e.b)
	e.b = native.AppendUint16(e.b, 0)
	e.b = native.AppendUint16(e.b, kind)
	f(e)
	native.PutUint16(e.b[at:], uint16(len(e.b)-at))
	return e
}

// networkOrder is htons.
func networkOrder(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return native.Uint16(b[:])
}
