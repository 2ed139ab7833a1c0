package bus

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// TestDialer: who is not welcomed does not keep its socket when it tries again. The server here is as one that is so busy that its own ping is due before its answer.
func TestDialer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	k, err := OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	creds, err := k.NodeCredentials("n1")
	if err != nil {
		t.Fatal(err)
	}
	connected := make(chan *Conn, 1)
	go func() { // it waits for a first answer
		c, err := Connect(Config{URL: "nats://" + l.Addr().String(), Credentials: creds, Name: NodeService})
		if err != nil {
			t.Error(err)
		}
		connected <- c
	}()
	defer func() {
		if c := <-connected; c != nil {
			c.NATS().Close()
		}
	}()
	var conns []net.Conn
	for range 4 {
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		t.Cleanup(func() { _ = conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("INFO {\"server_id\":\"x\",\"nonce\":\"y\",\"max_payload\":1024}\r\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("PING\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	for i, conn := range conns[:3] {
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("connection %d is still open", i)
		}
	}
}
