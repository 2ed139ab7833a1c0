package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// table is one nft table of ours, with all that is in it.
type table struct {
	family uint8
	name   string
	chains []chain // by name
}

// chain is a base chain: every one of ours hangs at a hook.
type chain struct {
	name     string
	hook     uint32
	priority int32
	device   string // of a netdev chain
	accept   bool   // what no rule decides passes
	rules    []rule
}

type rule struct {
	handle uint64 // the kernel's name for it
	steps  []expression
}

// expression is one step of a rule: its kind, and its attributes as netlink has them.
type expression struct {
	kind string
	data []byte
}

// Numbers of include/uapi/linux/netfilter/nf_tables.h that x/sys/unix does not have.
const (
	connlimitCount = 1 // NFTA_CONNLIMIT_COUNT
	connlimitFlags = 2
	overLimit      = 1 // NFT_CONNLIMIT_F_INV, NFT_LIMIT_F_INV: matches what is over it
	limitPackets   = 0 // NFT_LIMIT_PKTS
	ctStateNew     = 8 // NF_CT_STATE_BIT(IP_CT_NEW)
	verdictDrop    = 0 // NF_DROP
	verdictAccept  = 1 // NF_ACCEPT

	kindCounter = "counter"
	nestedFlag  = 0x8000 // NLA_F_NESTED
)

var network = binary.BigEndian

// netfilter begins a message about tables: its body is a struct nfgenmsg.
func netfilter(kind, flags uint16, family uint8) *encoder {
	e := newMessage(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags)
	e.b = append(e.b, family, unix.NFNETLINK_V0, 0, 0)
	return e
}

func (e *encoder) net32(kind uint16, v uint32) *encoder {
	return e.attr(kind, network.AppendUint32(nil, v))
}

func (e *encoder) net64(kind uint16, v uint64) *encoder {
	return e.attr(kind, network.AppendUint64(nil, v))
}

// express makes an expression of what f adds to an encoder.
func express(kind string, f func(*encoder)) expression {
	e := &encoder{}
	f(e)
	return expression{kind, e.b}
}

// value is a nested struct nft_data.
func (e *encoder) value(kind uint16, v []byte) *encoder {
	return e.nest(kind|nestedFlag, func(e *encoder) { e.attr(unix.NFTA_DATA_VALUE, v) })
}

// notLoopback asks that the packet does not come from, or go to, the namespace itself.
func notLoopback(key uint32) []expression {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return []expression{
		express("meta", func(e *encoder) { e.net32(unix.NFTA_META_KEY, key).net32(unix.NFTA_META_DREG, unix.NFT_REG_1) }),
		express("cmp", func(e *encoder) {
			e.net32(unix.NFTA_CMP_SREG, unix.NFT_REG_1).net32(unix.NFTA_CMP_OP, unix.NFT_CMP_NEQ).value(unix.NFTA_CMP_DATA, name)
		}),
	}
}

// isNew asks that the packet is the first of a connection.
func isNew() []expression {
	state, none := native.AppendUint32(nil, ctStateNew), make([]byte, 4)
	return []expression{
		express("ct", func(e *encoder) {
			e.net32(unix.NFTA_CT_KEY, unix.NFT_CT_STATE).net32(unix.NFTA_CT_DREG, unix.NFT_REG_1)
		}),
		express("bitwise", func(e *encoder) {
			e.net32(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1).net32(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1).net32(unix.NFTA_BITWISE_LEN, 4)
			e.value(unix.NFTA_BITWISE_MASK, state).value(unix.NFTA_BITWISE_XOR, none)
		}),
		express("cmp", func(e *encoder) {
			e.net32(unix.NFTA_CMP_SREG, unix.NFT_REG_1).net32(unix.NFTA_CMP_OP, unix.NFT_CMP_NEQ).value(unix.NFTA_CMP_DATA, none)
		}),
	}
}

func overRate(perSecond, burst uint32) expression {
	return express("limit", func(e *encoder) {
		e.net64(unix.NFTA_LIMIT_RATE, uint64(perSecond)).net64(unix.NFTA_LIMIT_UNIT, 1).net32(unix.NFTA_LIMIT_BURST, burst)
		e.net32(unix.NFTA_LIMIT_TYPE, limitPackets).net32(unix.NFTA_LIMIT_FLAGS, overLimit)
	})
}

func overCount(n uint32) expression {
	return express("connlimit", func(e *encoder) { e.net32(connlimitCount, n).net32(connlimitFlags, overLimit) })
}

func counts(packets, octets uint64) expression {
	return express(kindCounter, func(e *encoder) { e.net64(unix.NFTA_COUNTER_BYTES, octets).net64(unix.NFTA_COUNTER_PACKETS, packets) })
}

func drop() expression {
	return express("immediate", func(e *encoder) {
		e.net32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		e.nest(unix.NFTA_IMMEDIATE_DATA|nestedFlag, func(e *encoder) {
			e.nest(unix.NFTA_DATA_VERDICT|nestedFlag, func(e *encoder) { e.net32(unix.NFTA_VERDICT_CODE, verdictDrop) })
		})
	})
}

// counted is what a rule's counter says; ok is false without one.
func (r rule) counted() (packets, octets uint64, ok bool) {
	for _, s := range r.steps {
		if s.kind != kindCounter {
			continue
		}
		for kind, v := range attrs(s.data) {
			switch {
			case len(v) < 8:
			case kind == unix.NFTA_COUNTER_PACKETS:
				packets = network.Uint64(v)
			case kind == unix.NFTA_COUNTER_BYTES:
				octets = network.Uint64(v)
			}
		}
		return packets, octets, true
	}
	return 0, 0, false
}

// same says whether seen does what r asks for. The kernel adds attributes of its own, and counts.
func (r rule) same(seen rule) bool {
	return slices.EqualFunc(r.steps, seen.steps, func(want, have expression) bool {
		return want.kind == have.kind && (want.kind == kindCounter || covered(want.data, have.data))
	})
}

// covered says whether each attribute of want is in have, nests looked into.
func covered(want, have []byte) bool {
	for len(want) >= unix.SizeofRtAttr {
		n := int(native.Uint16(want))
		if n < unix.SizeofRtAttr || n > len(want) {
			return false
		}
		kind, v := native.Uint16(want[2:]), want[unix.SizeofRtAttr:n]
		found := false
		for k, h := range attrs(have) {
			if k != kind&attrTypeMask {
				continue
			}
			found = kind&nestedFlag != 0 && covered(v, h) || kind&nestedFlag == 0 && bytes.Equal(v, h)
		}
		if !found {
			return false
		}
		want = want[min(aligned(n), len(want)):]
	}
	return true
}

// place says whether two chains hang at the same hook in the same way; what is in them aside.
func (c chain) placed(d chain) bool {
	return c.name == d.name && c.hook == d.hook && c.priority == d.priority && c.device == d.device && c.accept == d.accept
}

func (t table) add() message {
	return netfilter(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, t.family).text(unix.NFTA_TABLE_NAME, t.name).end()
}

func (t table) del() message {
	return netfilter(unix.NFT_MSG_DELTABLE, 0, t.family).text(unix.NFTA_TABLE_NAME, t.name).end()
}

func (t table) addChain(c chain) message {
	policy := uint32(verdictDrop)
	if c.accept {
		policy = verdictAccept
	}
	e := netfilter(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, t.family).text(unix.NFTA_CHAIN_TABLE, t.name).text(unix.NFTA_CHAIN_NAME, c.name)
	return e.nest(unix.NFTA_CHAIN_HOOK|nestedFlag, func(e *encoder) {
		e.net32(unix.NFTA_HOOK_HOOKNUM, c.hook).net32(unix.NFTA_HOOK_PRIORITY, uint32(c.priority))
		if c.device != "" {
			e.text(unix.NFTA_HOOK_DEV, c.device)
		}
	}).net32(unix.NFTA_CHAIN_POLICY, policy).text(unix.NFTA_CHAIN_TYPE, "filter").end()
}

// addRule adds a rule at the end of a chain or, with a handle, puts it in the place of that one.
func (t table) addRule(c chain, r rule) message {
	flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_APPEND)
	if r.handle != 0 {
		flags = unix.NLM_F_REPLACE
	}
	e := netfilter(unix.NFT_MSG_NEWRULE, flags, t.family).text(unix.NFTA_RULE_TABLE, t.name).text(unix.NFTA_RULE_CHAIN, c.name)
	if r.handle != 0 {
		e.net64(unix.NFTA_RULE_HANDLE, r.handle)
	}
	return e.nest(unix.NFTA_RULE_EXPRESSIONS|nestedFlag, func(e *encoder) {
		for _, s := range r.steps {
			e.nest(unix.NFTA_LIST_ELEM|nestedFlag, func(e *encoder) {
				e.text(unix.NFTA_EXPR_NAME, s.kind).attr(unix.NFTA_EXPR_DATA|nestedFlag, s.data)
			})
		}
	}).end()
}

// flush deletes all rules of a chain.
func (t table) flush(c chain) message {
	return netfilter(unix.NFT_MSG_DELRULE, 0, t.family).text(unix.NFTA_RULE_TABLE, t.name).text(unix.NFTA_RULE_CHAIN, c.name).end()
}

const sizeofNfgenmsg = 4

// decodeChain returns a chain and the table that it is in. A chain that hangs at no hook is none of ours.
func decodeChain(body []byte) (in table, c chain, err error) {
	if len(body) < sizeofNfgenmsg {
		return in, c, errMalformed
	}
	in.family = body[0]
	for kind, v := range attrs(body[sizeofNfgenmsg:]) {
		switch kind {
		case unix.NFTA_CHAIN_TABLE:
			in.name = attrText(v)
		case unix.NFTA_CHAIN_NAME:
			c.name = attrText(v)
		case unix.NFTA_CHAIN_POLICY:
			c.accept = len(v) >= 4 && network.Uint32(v) == verdictAccept
		case unix.NFTA_CHAIN_HOOK:
			for kind, v := range attrs(v) {
				switch {
				case kind == unix.NFTA_HOOK_DEV:
					c.device = attrText(v)
				case len(v) < 4:
				case kind == unix.NFTA_HOOK_HOOKNUM:
					c.hook = network.Uint32(v)
				case kind == unix.NFTA_HOOK_PRIORITY:
					c.priority = int32(network.Uint32(v))
				}
			}
		}
	}
	return in, c, nil
}

// decodeRule returns a rule, and the table and chain that it is in. It keeps nothing of body.
func decodeRule(body []byte) (in table, at string, r rule, err error) {
	if len(body) < sizeofNfgenmsg {
		return in, "", r, errMalformed
	}
	in.family = body[0]
	for kind, v := range attrs(body[sizeofNfgenmsg:]) {
		switch kind {
		case unix.NFTA_RULE_TABLE:
			in.name = attrText(v)
		case unix.NFTA_RULE_CHAIN:
			at = attrText(v)
		case unix.NFTA_RULE_HANDLE:
			if len(v) >= 8 {
				r.handle = network.Uint64(v)
			}
		case unix.NFTA_RULE_EXPRESSIONS:
			for _, element := range attrs(v) {
				var x expression
				for kind, v := range attrs(element) {
					switch kind {
					case unix.NFTA_EXPR_NAME:
						x.kind = attrText(v)
					case unix.NFTA_EXPR_DATA:
						x.data = bytes.Clone(v)
					}
				}
				r.steps = append(r.steps, x)
			}
		}
	}
	return in, at, r, nil
}

// familyText is a family as nft names it.
func familyText(family uint8) string {
	switch family {
	case unix.NFPROTO_NETDEV:
		return "netdev"
	case unix.NFPROTO_INET:
		return "inet"
	}
	return fmt.Sprint(family)
}
