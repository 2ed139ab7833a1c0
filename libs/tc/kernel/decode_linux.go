package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"syscall"

	"golang.org/x/sys/unix"
)

// errMalformed says that the kernel (or who speaks for it) sent what cannot be read. Decoders read no byte beyond what they were given,
// whatever it holds.
var errMalformed = errors.New("malformed netlink message")

// received is one message as it came.
type received struct {
	kind, flags uint16
	seq, port   uint32
	body        []byte
}

// messages splits what one read returned.
func messages(b []byte) iter.Seq2[received, error] {
	return func(yield func(received, error) bool) {
		for len(b) > 0 {
			if len(b) < unix.NLMSG_HDRLEN {
				yield(received{}, errMalformed)
				return
			}
			n := int(native.Uint32(b))
			if n < unix.NLMSG_HDRLEN || n > len(b) {
				yield(received{}, errMalformed)
				return
			}
			m := received{native.Uint16(b[4:]), native.Uint16(b[6:]), native.Uint32(b[8:]), native.Uint32(b[12:]), b[unix.NLMSG_HDRLEN:n]}
			if !yield(m, nil) {
				return
			}
			b = b[min(aligned(n), len(b)):]
		}
	}
}

func aligned(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

// attrs are the attributes of a message or of a nest, by kind; of a kind that comes twice, the last.
func attrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(native.Uint16(b))
			if n < unix.SizeofRtAttr || n > len(b) {
				return
			}
			if !yield(native.Uint16(b[2:])&attrTypeMask, b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min(aligned(n), len(b)):]
		}
	}
}

func attrUint32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return native.Uint32(b)
}

func attrUint64(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return native.Uint64(b)
}

func attrText(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// kernelError is why the kernel refused a message: the error number and, where it gave one, its own explanation.
type kernelError struct {
	errno syscall.Errno
	text  string
}

func (e *kernelError) Error() string {
	if e.text != "" {
		return e.errno.Error() + ": " + e.text
	}
	return e.errno.Error()
}

func (e *kernelError) Unwrap() error { return e.errno }

const (
	errorCapped   = 0x100 // NLM_F_CAPPED: only the header of the refused message is repeated
	errorExtended = 0x200 // NLM_F_ACK_TLVS: attributes follow
	errorText     = 1     // NLMSGERR_ATTR_MSG
)

// decodeError reads an NLMSG_ERROR (nil: an acknowledgement) or NLMSG_DONE.
func decodeError(m received) error {
	if len(m.body) < 4 {
		return errMalformed
	}
	code := int32(native.Uint32(m.body))
	if code >= 0 {
		return nil
	}
	e := &kernelError{errno: syscall.Errno(-int64(code))}
	rest := m.body[4:]
	if m.flags&errorExtended != 0 && m.kind == unix.NLMSG_ERROR && len(rest) >= unix.NLMSG_HDRLEN {
		skip := unix.NLMSG_HDRLEN
		if m.flags&errorCapped == 0 {
			skip = aligned(int(native.Uint32(rest)))
		}
		if skip >= unix.NLMSG_HDRLEN && skip <= len(rest) {
			for kind, v := range attrs(rest[skip:]) {
				if kind == errorText {
					e.text = attrText(v)
				}
			}
		}
	}
	return e
}

// object is a qdisc, a class or a filter as the kernel reports it.
type object struct {
	device               int
	handle, parent, info uint32
	kind                 string
	chain                uint32
	options              []byte // attributes, or a struct, of kind's own
	stats                []byte // attributes TCA_STATS_…
}

const sizeofTcmsg = 20

func decodeObject(body []byte) (object, error) {
	if len(body) < sizeofTcmsg {
		return object{}, errMalformed
	}
	o := object{
		device: int(int32(native.Uint32(body[4:]))),
		handle: native.Uint32(body[8:]), parent: native.Uint32(body[12:]), info: native.Uint32(body[16:]),
	}
	for kind, v := range attrs(body[sizeofTcmsg:]) {
		switch kind {
		case attrKind:
			o.kind = attrText(v)
		case attrOptions:
			o.options = v
		case attrStats2:
			o.stats = v
		case attrChain:
			o.chain = attrUint32(v)
		}
	}
	return o, nil
}

const sizeofHTBOpt = 44 // struct tc_htb_opt

func decodeClass(o object) (class, error) {
	c := class{handle: o.handle, parent: o.parent}
	if o.kind != "htb" {
		return c, fmt.Errorf("class %s is of kind %q: %w", handleText(o.handle), o.kind, errMalformed)
	}
	var rate64, ceil64 uint64
	found := false
	for kind, v := range attrs(o.options) {
		switch kind {
		case htbParms:
			if len(v) < sizeofHTBOpt {
				return c, errMalformed
			}
			found = true
			c.rate, c.ceil = uint64(native.Uint32(v[8:])), uint64(native.Uint32(v[20:]))
			c.burst, c.ceilBurst = native.Uint32(v[24:]), native.Uint32(v[28:])
			c.quantum, c.priority = native.Uint32(v[32:]), native.Uint32(v[40:])
			c.overhead = uint32(native.Uint16(v[2:]))<<16 | uint32(native.Uint16(v[14:]))
		case htbRate64:
			rate64 = attrUint64(v)
		case htbCeil64:
			ceil64 = attrUint64(v)
		}
	}
	if !found {
		return c, errMalformed
	}
	c.rate, c.ceil = max(c.rate, rate64), max(c.ceil, ceil64)
	return c, nil
}

// decodeRoot reads what an htb qdisc was made with.
func decodeRoot(o object) root {
	r := root{handle: o.handle}
	for kind, v := range attrs(o.options) {
		switch kind {
		case htbInit: // struct tc_htb_glob
			if len(v) >= 12 {
				r.quantumRate, r.fallback = native.Uint32(v[4:]), native.Uint32(v[8:])
			}
		case htbDirectLen:
			r.mark = attrUint32(v)
		}
	}
	return r
}

func decodeFilter(o object) filter {
	f := filter{kind: o.kind, handle: o.handle, priority: o.info >> 16, protocol: uint16(o.info), chain: o.chain}
	if o.kind != "bpf" {
		return f
	}
	for kind, v := range attrs(o.options) {
		switch kind {
		case bpfName:
			f.name = attrText(v)
		case bpfTag:
			f.tag = string(v)
		case bpfID:
			f.program = attrUint32(v)
		case bpfFlags:
			f.direct = attrUint32(v)&bpfActDirect != 0
		case bpfAct:
			f.redirect = decodeRedirect(v)
		}
	}
	return f
}

// decodeRedirect is the device that a list of one action sends packets to; -1: the list is another.
func decodeRedirect(actions []byte) (device int) {
	n := 0
	for _, action := range attrs(actions) {
		n++
		device = -1
		for kind, v := range attrs(action) {
			if kind != actOptions {
				continue
			}
			for kind, v := range attrs(v) {
				if kind == mirredParms && len(v) >= sizeofMirred && native.Uint32(v[20:]) == egressRedirect {
					device = int(int32(native.Uint32(v[24:])))
				}
			}
		}
	}
	if n != 1 {
		return -1
	}
	return device
}
