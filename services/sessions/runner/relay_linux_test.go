package runner

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/sandbox"
	"agentyard.dev/services/sessions/sandbox/sandboxtest"
)

// TestNetwork: a session with a network of its own reaches on the machine's loopback what it may and nothing else, and its own servers are reached.
// The machine is a network namespace.
func TestNetwork(t *testing.T) {
	if !sandboxtest.OwnNetwork(t, time.Minute) {
		return
	}
	inside, err := sandbox.MakeNetwork(launch.Network{Address: "10.9.8.2", Gateway: "10.9.8.1"})
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	echo := func(at string) {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					_, _ = io.Copy(conn, conn)
					_ = conn.Close()
				}()
			}
		}()
	}
	echo("127.0.0.1:7001")
	echo("127.0.0.1:7002")
	names, err := net.ListenPacket("udp", "127.0.0.53:53")
	if err != nil {
		t.Fatal(err)
	}
	defer names.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := names.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = names.WriteTo([]byte("answer to "+string(buf[:n])), from)
		}
	}()

	ctx, cancel := context.WithCancel(context.Background())
	relays, err := startRelays(ctx, inside, []string{"127.0.0.1:7001"}, []string{"127.0.0.53:53"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(network, to, text string) (answer string, err error) {
		err = inside.Do(func() error {
			conn, err := net.DialTimeout(network, to, 10*time.Second)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.WriteString(conn, text); err != nil {
				return err
			}
			buf := make([]byte, 100)
			n, err := conn.Read(buf)
			answer = string(buf[:n])
			return err
		})
		return answer, err
	}
	if got, err := ask("tcp", "127.0.0.1:7001", "hello"); got != "hello" || err != nil {
		t.Errorf("the service that is let in says %q, %v", got, err)
	}
	if got, err := ask("udp", "127.0.0.53:53", "where?"); got != "answer to where?" || err != nil {
		t.Errorf("the name server says %q, %v", got, err)
	}
	if got, err := ask("tcp", "127.0.0.1:7002", "hello"); err == nil {
		t.Errorf("another service says %q", got)
	}

	// The other way: a server in the session.
	r := &runner{network: inside}
	var server net.Listener
	if err := inside.Do(func() (err error) {
		server, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	port := uint16(server.Addr().(*net.TCPAddr).Port)
	r.launch.Sandbox.Isolation, r.launch.Sandbox.UID = []string{sandbox.UID}, os.Getuid()
	at, err := r.listening(port)
	if err != nil || at.Port() != port {
		t.Fatalf("the session's server: %v, %v", at, err)
	}
	if _, err := r.listening(7001 + 1); err == nil {
		t.Error("the machine's server is taken for the session's")
	}
	conn, err := r.dialInside(&net.Dialer{Timeout: 10 * time.Second})(ctx, "tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	cancel()
	relays.Wait()
	if _, err := ask("tcp", "127.0.0.1:7001", "hello"); err == nil {
		t.Error("a relay outlives its runner")
	}
}

func TestLoopbackServers(t *testing.T) {
	text := "# nameserver 127.0.0.9\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n search x\nnameserver ::1 \nnameserver\nnameserver what\n"
	if got := fmt.Sprint(loopbackServers(text)); got != "[127.0.0.53:53 [::1]:53]" {
		t.Errorf("got %s", strings.TrimSpace(got))
	}
}
