package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"agentyard.dev/services/sessions/sandbox"
)

const (
	relayDial = 5 * time.Second
	// relayConns bounds the connections of one relay, and the questions that it waits for.
	relayConns = 256
	// answerWithin bounds a name server's answer.
	answerWithin = 5 * time.Second
	maxQuestion  = 4096
	dnsPort      = 53
	resolvConf   = "/etc/resolv.conf"
)

// relays carry what a session with a network of its own says to chosen addresses on its loopback to the same addresses on the machine's, where
// nothing else of it arrives. They end with the context that they were started with.
type relays struct {
	wg  sync.WaitGroup
	log *slog.Logger
}

// startRelays listens on the session's loopback: for connections to each of the addresses, and for questions to the name servers. What it returns is
// done when ctx has ended and all relays with it, also after an error.
func startRelays(ctx context.Context, inside *sandbox.Network, addresses, servers []string, log *slog.Logger) (*sync.WaitGroup, error) {
	r := &relays{log: log}
	for _, at := range servers {
		var questions net.PacketConn
		if err := inside.Do(func() (err error) {
			questions, err = new(net.ListenConfig).ListenPacket(ctx, "udp", at)
			return err
		}); err != nil {
			return &r.wg, fmt.Errorf("relay %s: %w", at, err)
		}
		context.AfterFunc(ctx, func() { _ = questions.Close() })
		r.wg.Go(func() { r.answer(ctx, questions, at) })
	}
	for _, at := range append(slices.Clone(addresses), servers...) {
		var listener net.Listener
		if err := inside.Do(func() (err error) {
			listener, err = new(net.ListenConfig).Listen(ctx, "tcp", at)
			return err
		}); err != nil {
			return &r.wg, fmt.Errorf("relay %s: %w", at, err)
		}
		context.AfterFunc(ctx, func() { _ = listener.Close() })
		r.wg.Go(func() { r.accept(ctx, listener, at) })
	}
	return &r.wg, nil
}

// nameServers are the machine's name servers that only it itself reaches.
func nameServers() ([]string, error) {
	text, err := os.ReadFile(resolvConf)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("find name servers: %w", err)
	}
	return loopbackServers(string(text)), nil
}

// loopbackServers are the name servers on loopback in a resolv.conf(5).
func loopbackServers(text string) (servers []string) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && a.IsLoopback() {
			servers = append(servers, netip.AddrPortFrom(a, dnsPort).String())
		}
	}
	return servers
}

func (r *relays) accept(ctx context.Context, listener net.Listener, to string) {
	places := make(chan struct{}, relayConns)
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() == nil {
				r.log.Warn("relay", "op", to, "err", err)
			}
			return
		}
		select {
		case places <- struct{}{}:
			r.wg.Go(func() {
				defer func() { <-places }()
				carry(ctx, conn, to)
			})
		default:
			_ = conn.Close()
		}
	}
}

// carry connects conn with the machine's address, until both sides have ended or ctx has.
func carry(ctx context.Context, conn net.Conn, to string) {
	defer func() { _ = conn.Close() }()
	other, err := (&net.Dialer{Timeout: relayDial}).DialContext(ctx, "tcp", to)
	if err != nil {
		return
	}
	defer func() { _ = other.Close() }()
	stop := context.AfterFunc(ctx, func() {
		_ = conn.Close()
		_ = other.Close()
	})
	defer stop()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{conn, other}, {other, conn}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			if half, ok := way[0].(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
		})
	}
	both.Wait()
}

// answer asks the machine's name server what comes in, until questions is closed.
func (r *relays) answer(ctx context.Context, questions net.PacketConn, to string) {
	places := make(chan struct{}, relayConns)
	buf := make([]byte, maxQuestion)
	for {
		n, from, err := questions.ReadFrom(buf)
		if err != nil {
			return
		}
		question := append([]byte(nil), buf[:n]...)
		select {
		case places <- struct{}{}:
		default:
			continue // it is asked again
		}
		r.wg.Go(func() {
			defer func() { <-places }()
			server, err := (&net.Dialer{Timeout: relayDial}).DialContext(ctx, "udp", to)
			if err != nil {
				return
			}
			defer func() { _ = server.Close() }()
			_ = server.SetDeadline(time.Now().Add(answerWithin))
			if _, err := server.Write(question); err != nil {
				return
			}
			answer := make([]byte, 1<<16)
			if n, err := server.Read(answer); err == nil {
				_, _ = questions.WriteTo(answer[:n], from)
			}
		})
	}
}
