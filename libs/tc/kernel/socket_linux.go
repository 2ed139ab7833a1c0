package kernel

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"agentyard.dev/libs/thread"
)

// socket is an rtnetlink socket of one network namespace. One exchange at a time.
type socket struct {
	mu   sync.Mutex
	fd   int
	port uint32 // its address, which the kernel puts on what it tells others of our changes
	seq  uint32
	out  []byte
	in   []byte

	writes atomic.Uint64 // messages that changed something, or tried to

	// refuse, if not nil, answers for the kernel: tests let any message fail, and all behind it as when the process dies.
	refuse func(message) error
}

const (
	// maxBatch is how many messages one send carries: more gains nothing, and their errors must fit the receive buffer.
	maxBatch = 100
	// answerTimeout is how long the kernel may take for an answer: it takes microseconds, but for the lock that others hold.
	answerTimeout = 10 * time.Second
	receiveBuffer = 1 << 20
	readSize      = 64 << 10 // at least 32 KiB, or the kernel makes dumps of small pages
)

// errNoAnswer says that a batch was sent and its outcome is not known.
var errNoAnswer = errors.New("no answer from the kernel")

// dial opens a socket in the network namespace of the file at path ("": the calling thread's), which hears what the multicast groups tell.
func dial(path string, groups uint32) (*socket, error) {
	return dialTo(path, unix.NETLINK_ROUTE, groups)
}

// dialTo is dial for another protocol than rtnetlink.
func dialTo(path string, protocol int, groups uint32) (*socket, error) {
	var s *socket
	err := inNamespace(path, func() (err error) {
		s, err = dialProtocol(protocol, groups)
		return err
	})
	return s, err
}

func dialHere(groups uint32) (*socket, error) { return dialProtocol(unix.NETLINK_ROUTE, groups) }

func dialProtocol(protocol int, groups uint32) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	fail := func(err error) (*socket, error) {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return fail(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return fail(err)
	}
	timeout := unix.NsecToTimeval(int64(answerTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return fail(err)
	}
	// What follows makes it faster or clearer; without it (an older kernel) it works as well.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, receiveBuffer)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	return &socket{fd: fd, port: name.(*unix.SockaddrNetlink).Pid, in: make([]byte, readSize)}, nil
}

func (s *socket) close() error { return unix.Close(s.fd) }

// inNamespace runs f on a thread that is in the network namespace of the file at path.
func inNamespace(path string, f func() error) error {
	if path == "" {
		return f()
	}
	ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer func() { _ = unix.Close(ns) }()
	return thread.Own(func() error {
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return f()
	})
}

// write sends messages that change something, in batches, in order. The kernel goes on behind one that it refuses, so batches are no
// transactions: errs[i] is what became of message i. write itself fails when that is not known.
func (s *socket) write(ctx context.Context, msgs []message) (errs []error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs = make([]error, len(msgs))
	for at := 0; at < len(msgs); at += maxBatch {
		if err := ctx.Err(); err != nil {
			return errs, err
		}
		end := min(at+maxBatch, len(msgs))
		if err := s.batch(msgs[at:end], errs[at:end]); err != nil {
			return errs, err
		}
	}
	return errs, nil
}

// batch sends messages at once; the last asks for an acknowledgement, so all errors have come when it does.
func (s *socket) batch(msgs []message, errs []error) error {
	s.out = s.out[:0]
	first, last, lastAt := s.seq+1, uint32(0), 0
	for i, m := range msgs {
		s.seq++
		if s.refuse != nil {
			if errs[i] = s.refuse(m); errs[i] != nil {
				continue
			}
		}
		s.writes.Add(1)
		last, lastAt = s.seq, len(s.out)
		s.append(m)
	}
	if len(s.out) == 0 {
		return nil
	}
	flags := native.Uint16(s.out[lastAt+6:])
	native.PutUint16(s.out[lastAt+6:], flags|unix.NLM_F_ACK)
	return s.exchange(func(m received) (bool, error) {
		if m.kind != unix.NLMSG_ERROR || m.seq-first >= uint32(len(msgs)) {
			return false, nil // of an exchange that was given up
		}
		errs[m.seq-first] = decodeError(m)
		return m.seq == last, nil
	})
}

// transact sends messages about netfilter's tables as one transaction: all of them are done, or none.
func (s *socket) transact(ctx context.Context, msgs []message) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	bound := func(kind uint16) message {
		e := newMessage(kind, 0)
		e.b = append(e.b, unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES)
		return e.end()
	}
	if s.refuse != nil {
		if err := s.refuse(msgs[0]); err != nil {
			return err
		}
	}
	s.out = s.out[:0]
	s.seq++
	begin := s.seq
	s.append(bound(unix.NFNL_MSG_BATCH_BEGIN))
	for _, m := range msgs {
		s.seq++
		start := len(s.out)
		s.append(m)
		native.PutUint16(s.out[start+6:], native.Uint16(m[6:])|unix.NLM_F_ACK)
	}
	s.writes.Add(uint64(len(msgs)))
	last := s.seq
	s.seq++
	s.append(bound(unix.NFNL_MSG_BATCH_END))
	bad := s.exchange(func(m received) (bool, error) {
		if m.kind != unix.NLMSG_ERROR || m.seq-begin > last-begin {
			return false, nil // of an exchange that was given up
		}
		if e := decodeError(m); e != nil && err == nil {
			err = e
		}
		return m.seq == last || m.seq == begin, nil
	})
	if bad != nil {
		return bad
	}
	return err
}

func (s *socket) append(m message) {
	at := len(s.out)
	s.out = append(s.out, m...)
	native.PutUint32(s.out[at+8:], s.seq)
	for len(s.out)%unix.NLMSG_ALIGNTO != 0 {
		s.out = append(s.out, 0)
	}
}

// exchange sends s.out and calls f for what comes until f says that it is all. The socket is empty then, or f's error returned.
func (s *socket) exchange(f func(received) (bool, error)) error {
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	for {
		err := unix.Sendto(s.fd, s.out, 0, to)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("send %d bytes to the kernel: %w", len(s.out), err)
		}
	}
	for {
		n, _, err := unix.Recvfrom(s.fd, s.in, 0)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errNoAnswer, err)
		}
		for m, err := range messages(s.in[:n]) {
			if err != nil {
				return err
			}
			if done, err := f(m); done || err != nil {
				return err
			}
		}
	}
}

// get asks for one object; ok is false when the kernel has none (it says ENOENT or EINVAL, or ENODEV when the device is gone).
func (s *socket) get(m message) (found received, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	s.out = s.out[:0]
	s.append(m)
	native.PutUint16(s.out[6:], native.Uint16(s.out[6:])|unix.NLM_F_ACK)
	err = s.exchange(func(m received) (bool, error) {
		switch {
		case m.seq != s.seq:
			return false, nil
		case m.kind == unix.NLMSG_ERROR:
			return true, decodeError(m)
		}
		m.body = append([]byte(nil), m.body...)
		found, ok = m, true
		return false, nil
	})
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENODEV) {
		return found, false, nil
	}
	return found, ok, err
}

// dump calls f for each object of a list. A list that changed meanwhile is read again: restart is called before each reading.
func (s *socket) dump(m message, restart func(), f func(received) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for try := 0; ; try++ {
		restart()
		s.seq++
		s.out = s.out[:0]
		s.append(m)
		native.PutUint16(s.out[6:], native.Uint16(s.out[6:])|unix.NLM_F_DUMP)
		torn := false
		var bad error
		err := s.exchange(func(m received) (bool, error) {
			if m.seq != s.seq {
				return false, nil
			}
			torn = torn || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.kind {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				return true, decodeError(m)
			}
			if bad == nil {
				bad = f(m) // read to the end in any case, or the next exchange would meet the rest
			}
			return false, nil
		})
		if err != nil || bad != nil {
			return errors.Join(err, bad)
		}
		if !torn || try == maxTorn {
			return nil
		}
	}
}

// maxTorn bounds how often a list that changes while it is read is read again.
const maxTorn = 5
