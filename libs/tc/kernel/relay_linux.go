package kernel

import (
	"bytes"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"agentyard.dev/libs/tc"
)

// Relay delays and doubles a session's packets in this process, for kernels without netem. Programs at the veth give it each packet through a tap
// device of its own and drop the original; when the device is not there, because the process has died or Close was called, they let the original pass. So a relay that dies ends
// its fault. They look at the time, too, as the classifiers of faults do.
type Relay struct {
	close func()
	wait  sync.WaitGroup
}

const (
	relayRole   = "relay"
	relayPrefix = programPrefix + relayRole
	// relayMark is on a packet that has been through a relay.
	relayMark = 0x6179_7264
	// relayPriority comes before ingressPriority: what a relay takes, it takes before it is shaped.
	relayPriority = 1

	skbMark       = 8 // of struct __sk_buff
	redirectIn    = 1 // BPF_F_INGRESS
	verdictStolen = 4 // TC_ACT_STOLEN: a drop that its sender does not hear of, which TCP would take for a full queue
	verdictUnspec = -1

	// relayPackets bounds what waits in one direction; what does not fit is lost.
	relayPackets = 10_000
	relayFrame   = 64 << 10
)

// tapAddress is every tap's own: what the node itself says on it (IPv6 does) has it, and is not the session's.
var tapAddress = []byte{0x02, 0x61, 0x79, 0x64, 0x72, 0x01}

// tapName is the name of a session's tap device in a direction.
func tapName(device int, d tc.Direction) string {
	if d == tc.Upload {
		return "ayt" + strconv.Itoa(device)
	}
	return "ayd" + strconv.Itoa(device)
}

// divertToTap gives each packet that has not been there to a device, and drops it when that took it.
func divertToTap(device int, until uint64) asm.Instructions {
	b := assembler{asm.Mov.Reg(asm.R6, asm.R1), asm.LoadMem(asm.R7, asm.R6, skbMark, asm.Word)}
	b.add("", asm.LoadImm(asm.R1, relayMark, asm.DWord), asm.JNE.Reg(asm.R7, asm.R1, "fresh"))
	b.add("", asm.Mov.Imm(asm.R1, 0), asm.StoreMem(asm.R6, skbMark, asm.R1, asm.Word))
	b.add("pass", asm.Mov.Imm(asm.R0, verdictUnspec), asm.Return())
	b.add("fresh", asm.FnKtimeGetBootNs.Call(), asm.LoadImm(asm.R1, int64(until), asm.DWord), asm.JGE.Reg(asm.R0, asm.R1, "pass"))
	b.add("", asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, int32(device)), asm.Mov.Imm(asm.R3, 0), asm.FnCloneRedirect.Call())
	b.add("", asm.JNE.Imm(asm.R0, 0, "pass"), asm.Mov.Imm(asm.R0, verdictStolen), asm.Return())
	return asm.Instructions(b)
}

// giveBack marks what a relay writes to its tap, and lets it enter the node where it came from.
func giveBack(device int) asm.Instructions {
	b := assembler{asm.LoadImm(asm.R2, relayMark, asm.DWord), asm.StoreMem(asm.R1, skbMark, asm.R2, asm.Word)}
	b.add("", asm.Mov.Imm(asm.R1, int32(device)), asm.Mov.Imm(asm.R2, redirectIn), asm.FnRedirect.Call(), asm.Return())
	return asm.Instructions(b)
}

// Relay begins to delay and double the packets of an interface as f says, until a moment of CLOCK_BOOTTIME. Close, and then Apply, end it.
func (k *Kernel) Relay(ctx context.Context, on Interface, f tc.Fault, until uint64) (*Relay, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	stop, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &Relay{}
	var files []*os.File
	r.close = sync.OnceFunc(func() {
		cancel()
		for _, f := range files {
			_ = f.Close()
		}
	})
	for _, d := range []tc.Direction{tc.Download, tc.Upload} {
		if f.Direction != "" && f.Direction != d {
			continue
		}
		file, err := openTap(k.path, tapName(on.Index, d))
		if err == nil {
			files = append(files, file)
			var send func([]byte)
			if send, err = k.attach(ctx, stop, on, d, file, until); err == nil {
				r.pump(stop, file, f, send)
				continue
			}
		}
		r.close()
		r.wait.Wait()
		return nil, fmt.Errorf("relay the %s of device %d: %w", d, on.Index, err)
	}
	k.seenMu.Lock()
	k.relays[on.Index]++
	k.seenMu.Unlock()
	closing := r.close
	r.close = sync.OnceFunc(func() {
		closing()
		k.seenMu.Lock()
		defer k.seenMu.Unlock()
		if k.relays[on.Index]--; k.relays[on.Index] == 0 {
			delete(k.relays, on.Index)
		}
	})
	return r, nil
}

// Close ends the relay. What waits in it is lost. The programs let packets pass from now on; the next Apply removes them.
func (r *Relay) Close() {
	r.close()
	r.wait.Wait()
}

// relayed says whether a relay works at an interface.
func (k *Kernel) relayed(device int) bool {
	k.seenMu.Lock()
	defer k.seenMu.Unlock()
	return k.relays[device] > 0
}

// openTap makes a tap device, which is there as long as it is open.
func openTap(namespace, name string) (file *os.File, err error) {
	err = inNamespace(namespace, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq(name)
		if err == nil {
			request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		file = os.NewFile(uintptr(fd), name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("make tap device %s: %w", name, err)
	}
	return file, nil
}

// attach puts the programs around a tap, and returns how a packet goes on from there.
func (k *Kernel) attach(ctx, stop context.Context, on Interface, d tc.Direction, file *os.File, until uint64) (send func([]byte), err error) {
	tap, ok, err := readLink(k.socket, 0, file.Name())
	if err != nil || !ok {
		return nil, errors.Join(err, errIf(!ok, ErrGone))
	}
	up := linkMessage(unix.RTM_NEWLINK, 0, tap.index, unix.IFF_UP, unix.IFF_UP).uint32(unix.IFLA_TXQLEN, relayPackets).uint32(unix.IFLA_GROUP, ifbGroup).
		attr(unix.IFLA_ADDRESS, tapAddress).end()
	if err := k.qdiscs.hear(); err != nil {
		return nil, err
	}
	have, err := readIngress(k.qdiscs, on.Index)
	if err != nil {
		return nil, err
	}
	msgs := []message{up}
	if !have.clsact {
		msgs = append(msgs, clsact(on.Index))
		k.qdiscs.changed(on.Index)
	}
	put := func(device int, parent uint32, ins func() asm.Instructions) error {
		p, err := k.programs.get(relayRole, fmt.Appendf(nil, "%d %d %d %d", device, parent, tap.index, until), ins)
		if err != nil {
			return err
		}
		program, err := k.programs.handle(p)
		if err != nil {
			return err
		}
		context.AfterFunc(stop, func() { _ = program.Close() })
		f := filter{kind: "bpf", priority: relayPriority, protocol: networkOrder(unix.ETH_P_ALL), handle: filterHandle, name: p.name, direct: true}
		if !have.clsact || have.made() {
			f.name += madeClsact
		}
		msgs = append(msgs, f.put(device, parent, program.FD()))
		return nil
	}
	parent := uint32(clsactEgress)
	if d == tc.Upload {
		parent = clsactIngress
		msgs = append(msgs, clsact(tap.index))
		if err := put(tap.index, clsactIngress, func() asm.Instructions { return giveBack(on.Index) }); err != nil {
			return nil, err
		}
		send = func(frame []byte) { _, _ = file.Write(frame) } // full: it is lost
	} else if send, err = k.injector(stop, on.Index); err != nil {
		return nil, err
	}
	if err := put(on.Index, parent, func() asm.Instructions { return divertToTap(tap.index, until) }); err != nil {
		return nil, err
	}
	errs, err := k.socket.write(ctx, msgs)
	return send, errors.Join(append(errs, err)...)
}

// injector sends marked packets out of a device.
func (k *Kernel) injector(stop context.Context, device int) (send func([]byte), err error) {
	var fd int
	err = inNamespace(k.path, func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, relayMark)
	})
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	var mu sync.Mutex
	open := true
	context.AfterFunc(stop, func() {
		mu.Lock()
		defer mu.Unlock()
		open = false
		_ = unix.Close(fd)
	})
	to := &unix.SockaddrLinklayer{Ifindex: device, Protocol: networkOrder(unix.ETH_P_ALL)}
	return func(frame []byte) {
		mu.Lock()
		defer mu.Unlock()
		if open && len(frame) > 14 {
			to.Protocol = native.Uint16(frame[12:])
			_ = unix.Sendto(fd, frame, 0, to) // no room: it is lost
		}
	}, nil
}

// late is a packet and when it is due.
type late struct {
	at    time.Time
	frame []byte
}

type lateness []late

func (l lateness) Len() int           { return len(l) }
func (l lateness) Less(i, j int) bool { return l[i].at.Before(l[j].at) }
func (l lateness) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *lateness) Push(v any)        { *l = append(*l, v.(late)) }
func (l *lateness) Pop() any {
	old := *l
	v := old[len(old)-1]
	*l = old[:len(old)-1]
	return v
}

// pump moves packets from a tap, late, to send: one goroutine reads, one sends.
func (r *Relay) pump(stop context.Context, file *os.File, f tc.Fault, send func([]byte)) {
	read := make(chan late, 256)
	r.wait.Go(func() {
		defer close(read)
		buf := make([]byte, relayFrame)
		for {
			n, err := file.Read(buf)
			if err != nil {
				return // closed
			}
			if n < 14 || bytes.Equal(buf[6:12], tapAddress) {
				continue
			}
			wait := time.Duration(f.Delay)
			if f.Jitter > 0 {
				wait += time.Duration(rand.Int64N(2*int64(f.Jitter)+1)) - time.Duration(f.Jitter) //nolint:gosec // what shall be random, not secret
			}
			p := late{time.Now().Add(wait), append([]byte(nil), buf[:n]...)}
			for range 1 + doubled(f.Duplicate) {
				select {
				case read <- p:
				case <-stop.Done():
					return
				}
			}
		}
	})
	r.wait.Go(func() {
		var queue lateness
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			select {
			case p, ok := <-read:
				if !ok {
					return
				}
				if len(queue) < relayPackets {
					heap.Push(&queue, p)
				}
			case <-timer.C:
			}
			now := time.Now()
			for len(queue) > 0 && !queue[0].at.After(now) {
				send(heap.Pop(&queue).(late).frame)
			}
			if len(queue) > 0 {
				timer.Reset(queue[0].at.Sub(now))
			}
		}
	})
}

func doubled(p tc.Portion) int {
	if rand.Uint32N(uint32(tc.All)) < uint32(p) { //nolint:gosec // likewise
		return 1
	}
	return 0
}
