package kernel

import (
	"errors"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"agentyard.dev/libs/tc"
)

// FuzzDecode: whatever comes, decoders return, and read nothing but what they were given.
func FuzzDecode(f *testing.F) {
	queue := newQueue(0x200, tc.Queue{Kind: tc.FQCodel, Limit: tc.MiB, Packets: 100, Target: 5 * tc.Millisecond, Interval: 100 * tc.Millisecond, Quantum: 1514, ECN: true})
	for _, m := range []message{
		root{rootHandle, 0x100, r2q, rootMark}.add(3),
		newClass(rootHandle|0x200, parentHandle, 40*tc.Gbit, 50*tc.Gbit, tc.KiB, tc.KiB, 1514, 3).add(3),
		queue.add(3), ifbAdd("ayu3"), filter{kind: "bpf", name: "agentyard:x"}.put(3, rootHandle, 7), clsact(3),
	} {
		f.Add([]byte(m))
	}
	limits := &tc.Plan{Mode: tc.Enforce, Limits: []tc.Limit{{Kind: tc.PacketRate, Direction: tc.Upload, Rate: 9}, {Kind: tc.Connections, Direction: tc.Download, Count: 9}}}
	node, inside := limitsOf(limits, "h0", "e0")
	msgs, _, _ := changes(nil, append(node, inside...))
	for _, m := range msgs {
		f.Add([]byte(m))
	}
	f.Add([]byte("\x24\x00\x00\x00\x02\x00\x00\x03\x01\x00\x00\x00\x00\x00\x00\x00\xea\xff\xff\xff\x24\x00\x00\x00\x24\x00\x05\x06\x01\x00\x00\x00\x00\x00\x00\x00\x08\x00\x01\x00oh\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		total := 0
		for m, err := range messages(data) {
			if err != nil {
				if !errors.Is(err, errMalformed) {
					t.Fatal(err)
				}
				break
			}
			total += unix.NLMSG_HDRLEN + len(m.body)
			_ = decodeError(m)
			_, _ = decodeLink(m.body)
			_, c, _ := decodeChain(m.body)
			_ = c.placed(c)
			if _, _, r, err := decodeRule(m.body); err == nil {
				_ = r.same(r)
				_, _, _ = r.counted()
			}
			o, err := decodeObject(m.body)
			if err != nil {
				continue
			}
			_, _ = decodeClass(o)
			_, _, _, _ = decodeRoot(o), decodeQueue(o), decodeFilter(o), decodeCounters(o)
		}
		if total > len(data) {
			t.Fatalf("%d bytes in %d", total, len(data))
		}
	})
}

// TestRoundTrip: what is written reads back as itself.
func TestRoundTrip(t *testing.T) {
	object := func(m message) object {
		t.Helper()
		for got, err := range messages(m) {
			if err != nil {
				t.Fatal(err)
			}
			o, err := decodeObject(got.body)
			if err != nil {
				t.Fatal(err)
			}
			return o
		}
		t.Fatal("no message")
		return object{}
	}
	r := root{rootHandle, 0x100, r2q, rootMark}
	if got := decodeRoot(object(r.add(3))); got != r || !got.ours() {
		t.Errorf("got %+v, want %+v", got, r)
	}
	for _, rate := range []tc.BitsPerSecond{tc.MinRate, tc.Mbit, 34 * tc.Gbit, 35 * tc.Gbit, 400 * tc.Gbit} {
		c := newClass(rootHandle|0x200, parentHandle, rate, 2*rate, 3028, 4*tc.KiB, 1514, 7)
		got, err := decodeClass(object(c.add(3)))
		if err != nil || got != c || got.rate != uint64(rate)/8 || got.ceil != uint64(rate)/4 {
			t.Errorf("%v: got %+v %v, want %+v", rate, got, err, c)
		}
	}
	for _, q := range []tc.Queue{
		{Kind: tc.BFIFO, Limit: 70000},
		{Kind: tc.SFQ, Packets: 127, Quantum: 1514},
		{Kind: tc.Netem, Packets: 1000, Delay: 5 * tc.Second, Jitter: 3 * tc.Millisecond, Loss: 10_000, Duplicate: tc.All},
		{Kind: tc.FQCodel, Limit: tc.MiB, Packets: 1024, Target: 5 * tc.Millisecond, Interval: 100 * tc.Millisecond, Quantum: 1514, ECN: true},
	} {
		want := newQueue(0x2f3, q)
		if got := decodeQueue(object(want.add(3))); !want.same(got) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	for us := uint32(1); us < 300_000; us++ { // as fq_codel keeps times: in units of 1,024 ns
		kept := us * 1000 / 1024
		want, read := queue{kind: string(tc.FQCodel), target: us}, queue{kind: string(tc.FQCodel), target: codelTime(kept * 1024 / 1000)}
		if !want.same(read) {
			t.Fatalf("%d µs is not known again as %d", us, read.target)
		}
		if again := read.target * 1000 / 1024; again != kept {
			t.Fatalf("%d µs is kept as %d, and when it is brought back as %d", us, kept, again)
		}
	}
	l, err := decodeLink(ifbAdd("ayu12")[unix.NLMSG_HDRLEN:])
	if device, ok := l.oursFor(); err != nil || !ok || device != 12 {
		t.Errorf("got %+v %v", l, err)
	}
}

func TestKernelError(t *testing.T) {
	s, err := dialHere(0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	_, _, err = s.get(traffic(unix.RTM_GETTFILTER, 0, loopback, 1, 0x10000, 1<<16).end())
	if err != nil && !errors.As(err, new(*kernelError)) {
		t.Errorf("got %v", err)
	}
	e := &kernelError{syscall.EINVAL, "Specified qdisc kind is unknown"}
	if !errors.Is(e, syscall.EINVAL) || e.Error() != "invalid argument: Specified qdisc kind is unknown" {
		t.Errorf("got %v", e)
	}
}
