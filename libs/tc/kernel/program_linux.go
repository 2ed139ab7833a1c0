package kernel

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"agentyard.dev/libs/tc"
)

// programPrefix begins the name of each filter of ours. What follows is the hash of the program, by which a filter is known again.
const programPrefix = "agentyard:"

// Fields of struct __sk_buff and an argument of bpf_skb_load_bytes_relative.
const (
	skbProtocol    = 16
	fromNetwork    = 1 // BPF_HDR_START_NET
	ipv4HeaderSize = 20
	ipv6HeaderSize = 40
)

// Where the classifier keeps the packet's header, and the word behind it (ports), on its stack.
const (
	stackHeader = -40
	stackPorts  = -48
)

// classifier is the program that answers a packet's class: straight-line code, one comparison for each word of each selector, in the
// order of the filters. It reads the packet with a helper, so it need not be contiguous in memory.
func classifier(t *tc.Tree) asm.Instructions {
	b := assembler{asm.Mov.Reg(asm.R6, asm.R1), asm.LoadMem(asm.R7, asm.R6, skbProtocol, asm.Word)}
	if t.Fault != nil {
		b.divert(t.Fault)
	}
	families := map[tc.Family][]tc.Filter{}
	for _, f := range t.Filters {
		families[f.Family] = append(families[f.Family], f)
	}
	for _, family := range []tc.Family{tc.IPv4, tc.IPv6} {
		if len(families[family]) > 0 {
			b = append(b, asm.JEq.Imm(asm.R7, int32(networkOrder(family.EtherType())), family.String()))
		}
	}
	b.answer("default", t.Default)
	for _, family := range []tc.Family{tc.IPv4, tc.IPv6} {
		if len(families[family]) > 0 {
			b.family(family, families[family])
			b.answer("", t.Default)
		}
	}
	return asm.Instructions(b)
}

type assembler asm.Instructions

// divert answers the fault's classes until it has ended. The kernel's clock decides, so it ends whoever is alive.
func (b *assembler) divert(f *tc.Diversion) {
	b.add("", asm.FnKtimeGetBootNs.Call(), asm.LoadImm(asm.R1, int64(f.Until), asm.DWord), asm.JGE.Reg(asm.R0, asm.R1, "normal"))
	if f.Loss != 0 {
		b.add("", asm.FnGetPrandomU32.Call(), asm.LoadImm(asm.R1, int64(f.Loss), asm.DWord), asm.JLT.Reg(asm.R0, asm.R1, "lost"))
	}
	b.answer("", f.Class)
	if f.Loss != 0 {
		b.answer("lost", f.Lost)
	}
	b.add("normal", asm.Mov.Imm(asm.R0, 0))
}

// add appends instructions; label, if any, is the place of the first.
func (b *assembler) add(label string, ins ...asm.Instruction) {
	if label != "" {
		ins[0] = ins[0].WithSymbol(label)
	}
	*b = append(*b, ins...)
}

func (b *assembler) answer(label string, minor tc.Minor) {
	b.add(label, asm.Mov.Imm(asm.R0, int32(rootHandle|uint32(minor))), asm.Return())
}

// load copies bytes of the packet, from offset behind its network header, to the stack. R0 is zero when it could.
func (b *assembler) load(label string, offset, size, to int32) {
	b.add(label,
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, offset),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, to),
		asm.Mov.Imm(asm.R4, size), asm.Mov.Imm(asm.R5, fromNetwork),
		asm.FnSkbLoadBytesRelative.Call())
}

func (b *assembler) family(family tc.Family, filters []tc.Filter) {
	size := int32(ipv4HeaderSize)
	if family == tc.IPv6 {
		size = ipv6HeaderSize
	}
	b.load(family.String(), 0, size, stackHeader)
	b.add("", asm.JNE.Imm(asm.R0, 0, "default"))
	// A packet that ends with its header has no ports: R8 is then not zero.
	b.load("", size, 4, stackPorts)
	b.add("", asm.Mov.Reg(asm.R8, asm.R0))
	n := 0
	label := func() string { return fmt.Sprintf("%s%d", family, n) }
	for _, f := range filters {
		for _, s := range f.Selectors() {
			here := label()
			n++
			// Always so; but without a question what follows could not be reached, and the kernel refuses that.
			b.add(here, asm.JNE.Imm(asm.R7, int32(networkOrder(family.EtherType())), label()))
			b.selector(label(), s, size, f.Class)
		}
	}
	b.add(label(), asm.Mov.Imm(asm.R0, 0)) // where the last one goes on; the answer follows
}

// selector answers class if all words match, and else goes on at next.
func (b *assembler) selector(next string, s tc.Selector, size int32, class tc.Minor) {
	for _, w := range s {
		if w.Mask == 0 {
			continue
		}
		at := int16(stackHeader + w.Offset)
		if w.Offset >= int(size) {
			b.add("", asm.JNE.Imm(asm.R8, 0, next))
			at = int16(stackPorts + w.Offset - int(size))
		}
		b.add("", asm.LoadMem(asm.R1, asm.RFP, at, asm.Word))
		if w.Mask != 1<<32-1 {
			b.add("", asm.And.Imm32(asm.R1, int32(networkWord(w.Mask))))
		}
		b.add("", asm.JNE.Imm32(asm.R1, int32(networkWord(w.Value)), next))
	}
	b.answer("", class)
}

// networkWord is htonl.
func networkWord(v uint32) uint32 {
	return native.Uint32(binary.BigEndian.AppendUint32(nil, v))
}

// everything is the program that matches every packet; the filter's action sends it on. The program could do that itself, but an IFB takes
// packets from a program only since Linux 6.2, and before that drops them without a word.
func everything() asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}
}

// program is a program as a filter is to have it.
type program struct {
	name  string
	tag   string // the kernel's hash of it
	build func() asm.Instructions
}

// programs loads each program once: sessions of one policy share one. What the kernel runs stays when ours is closed.
type programs struct {
	mu     sync.Mutex
	loaded map[string]*ebpf.Program // by name
	tags   map[string]string        // of all that were ever loaded, by name
}

func newPrograms() *programs {
	return &programs{loaded: map[string]*ebpf.Program{}, tags: map[string]string{}}
}

// maxPrograms bounds what is kept loaded, maxTags what is remembered.
const (
	maxPrograms = 256
	maxTags     = 1 << 14
)

// get returns the program that does what spec says. A name says what a program is for; that the kernel's program of a name is the one
// that this build assembles, its tag says.
func (ps *programs) get(role string, spec []byte, build func() asm.Instructions) (program, error) {
	sum := sha256.Sum256(spec)
	p := program{name: programPrefix + role + ":" + hex.EncodeToString(sum[:12]), build: build}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if _, ok := ps.tags[p.name]; !ok {
		if _, err := ps.load(p); err != nil {
			return program{}, err
		}
	}
	p.tag = ps.tags[p.name]
	return p, nil
}

// handle returns the loaded program, which the caller closes.
func (ps *programs) handle(p program) (*ebpf.Program, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	loaded, err := ps.load(p)
	if err != nil {
		return nil, err
	}
	return loaded.Clone()
}

func (ps *programs) load(p program) (*ebpf.Program, error) {
	if loaded := ps.loaded[p.name]; loaded != nil {
		return loaded, nil
	}
	ins := p.build()
	loaded, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "agentyard", Type: ebpf.SchedCLS, Instructions: ins, License: "Dual MIT/GPL",
	})
	if err != nil {
		return nil, fmt.Errorf("load program %s of %d instructions: %w", p.name, len(ins), err)
	}
	info, err := loaded.Info()
	var tag []byte
	if err == nil {
		tag, err = hex.DecodeString(info.Tag)
	}
	if err != nil {
		_ = loaded.Close()
		return nil, fmt.Errorf("load program %s: %w", p.name, err)
	}
	if len(ps.loaded) >= maxPrograms {
		ps.unload()
	}
	if len(ps.tags) >= maxTags {
		clear(ps.tags)
	}
	ps.loaded[p.name], ps.tags[p.name] = loaded, string(tag)
	return loaded, nil
}

func (ps *programs) unload() {
	for _, p := range ps.loaded {
		_ = p.Close()
	}
	clear(ps.loaded)
}

func (ps *programs) close() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.unload()
}

// classifier returns the program that decides a tree's classes.
func (ps *programs) classifier(t *tc.Tree) (program, error) {
	spec := binary.BigEndian.AppendUint16(nil, uint16(t.Default))
	if f := t.Fault; f != nil {
		spec = fmt.Appendf(spec, "fault %d %d %d %d", f.Until, f.Class, f.Lost, f.Loss)
	}
	for _, f := range t.Filters {
		for _, s := range f.Selectors() {
			spec = append(spec, byte(f.Family), byte(len(s)))
			spec = binary.BigEndian.AppendUint16(spec, uint16(f.Class))
			for _, w := range s {
				for _, v := range []uint32{uint32(w.Offset), w.Value, w.Mask} {
					spec = binary.BigEndian.AppendUint32(spec, v)
				}
			}
		}
	}
	return ps.get("classes", spec, func() asm.Instructions { return classifier(t) })
}

// redirector returns the filter that sends a session's upload through its IFB device, and its program.
func (ps *programs) redirector(device int) (filter, program, error) {
	p, err := ps.get("upload", []byte("everything"), everything)
	return filter{
		kind: "bpf", priority: ingressPriority, protocol: networkOrder(unix.ETH_P_ALL), handle: filterHandle, name: p.name, tag: p.tag, redirect: device,
	}, p, err
}

// classFilter is the filter at the root of a tree.
func classFilter(p program) filter {
	return filter{
		kind: "bpf", priority: filterPriority, protocol: networkOrder(unix.ETH_P_ALL), handle: filterHandle, name: p.name, tag: p.tag,
	}
}
