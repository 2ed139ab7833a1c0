package bus_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

const childDir = "BUS_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := writeUntilKilled(dir, os.Getenv("BUS_TEST_CHILD_SESSION")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeUntilKilled runs a server on dir and prints each write once it is acknowledged.
func writeUntilKilled(dir, session string) error {
	ctx := context.Background()
	ring, err := bus.OpenKeyring(filepath.Join(dir, "keys"))
	if err != nil {
		return err
	}
	srv, err := bus.StartServer(ctx, bus.ServerConfig{Dir: filepath.Join(dir, "js"), Keyring: ring, Listen: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	creds, err := ring.ServiceCredentials("sessions")
	if err != nil {
		return err
	}
	c, err := bus.Connect(bus.Config{InProcess: srv, Credentials: creds})
	if err != nil {
		return err
	}
	l, err := bus.OpenLedger[thing](ctx, c, bus.LedgerConfig{Noun: "sessions"})
	if err != nil {
		return err
	}
	log, err := bus.OpenLog(ctx, c, bus.LogConfig{})
	if err != nil {
		return err
	}
	creds, err = ring.SessionIssuer().Credentials(tenant, session)
	if err != nil {
		return err
	}
	sc, err := bus.Connect(bus.Config{InProcess: srv, Credentials: creds})
	if err != nil {
		return err
	}
	last, _, err := log.Position(ctx, tenant, session)
	if err != nil {
		return err
	}
	a := bus.NewAppender(sc, tenant, session, last, func(ctx context.Context) (uint64, string, error) { return log.Position(ctx, tenant, session) })
	go func() { _ = a.Run(ctx) }() // ends with the process
	if _, err := l.Create(ctx, key, meta, thing{}); err != nil && api.CodeOf(err) != api.CodeConflict {
		return err
	}
	for {
		e, err := l.Update(ctx, key, meta, increment)
		if err != nil {
			return err
		}
		// Groups of three: they are there together or not at all.
		if err := a.Append(ctx, chunk(e.State.N), chunk(e.State.N), chunk(e.State.N)); err != nil {
			return err
		}
		if e.State.N%2 == 0 {
			if err := a.Flush(ctx); err != nil {
				return err
			}
			fmt.Println(e.State.N)
		}
	}
}

// A server that is killed while it writes starts again on the same directory, and all that it
// acknowledged is there.
func TestServerKilled(t *testing.T) {
	dir, session := t.TempDir(), api.NewID(api.KindSession)
	acked := 0
	var all []int // acknowledged
	for range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir, "BUS_TEST_CHILD_SESSION="+session)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stop := acked + 100
		watchdog := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatal(err)
			}
			acked = n
			all = append(all, n)
			if acked >= stop {
				_ = cmd.Process.Kill() // SIGKILL; what is in the pipe still counts
			}
		}
		watchdog.Stop()
		_ = cmd.Wait() // killed
		if acked < stop {
			t.Fatalf("the child stopped at %d", acked)
		}

		ring, err := bus.OpenKeyring(filepath.Join(dir, "keys"))
		if err != nil {
			t.Fatal(err)
		}
		ctx := testContext(t)
		srv, err := bus.StartServer(ctx, bus.ServerConfig{Dir: filepath.Join(dir, "js"), Keyring: ring})
		if err != nil {
			t.Fatal(err)
		}
		if srv.URL() != "" {
			t.Fatalf("listens at %s", srv.URL())
		}
		c := bustest.ConnectInProcess(t, srv, ring, "sessions")
		l := openThings(t, c, 0)
		e, err := l.Get(ctx, key)
		if err != nil || e.State.N < acked {
			t.Fatalf("%d updates are kept, %d were acknowledged: %v", e.State.N, acked, err)
		}
		evs := readAll(t, bus.ReadLog(c), session, "", 0, 1000)
		if len(evs)%3 != 0 {
			t.Fatalf("%d events are kept: a group is torn", len(evs))
		}
		n, kept := 0, map[int]int{}
		for i, ev := range evs {
			var of int
			if _, err := fmt.Sscanf(ev.Delta, "chunk %d", &of); err != nil || of < n || (i%3 != 0 && of != n) {
				t.Fatalf("event %d is %q after %d", i, ev.Delta, n)
			}
			n = of
			kept[n]++
		}
		for _, n := range all {
			if kept[n] != 3 {
				t.Fatalf("%d of event group %d are kept, which was acknowledged", kept[n], n)
			}
		}
		srv.Close()
	}
}

// The address of a server that was just killed may be taken for a while.
func TestServerWaitsForItsAddress(t *testing.T) {
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := bus.ServerConfig{Dir: t.TempDir(), Listen: taken.Addr().String(), Keyring: ring}
	short, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err = bus.StartServer(short, cfg)
	wantCode(t, err, api.CodeUnavailable)

	started := make(chan error, 1)
	var srv *bus.Server
	go func() {
		var err error
		srv, err = bus.StartServer(testContext(t), cfg)
		started <- err
	}()
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	if !strings.HasSuffix(srv.URL(), cfg.Listen) {
		t.Fatalf("listens at %s", srv.URL())
	}
}

func TestServerRefusesBadConfig(t *testing.T) {
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []bus.ServerConfig{
		{Dir: t.TempDir()},
		{Keyring: ring},
		{Dir: t.TempDir(), Keyring: ring, Listen: "nonsense"},
		{Dir: t.TempDir(), Keyring: ring, Listen: "127.0.0.1:http"},
	} {
		_, err := bus.StartServer(testContext(t), cfg)
		wantCode(t, err, api.CodeInvalid)
	}
}

// Calls while the bus is away end with their deadline, and work when it is back.
func TestConnWhileAway(t *testing.T) {
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	srv := bustest.Start(t, ring, dir, "127.0.0.1:0")
	listen := srv.URL()[len("nats://"):]
	c := bustest.Connect(t, srv, ring, "sessions")
	l := openThings(t, c, 0)
	if _, err := l.Create(testContext(t), key, meta, thing{}); err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{}, 8)
	if err := c.Subscribe(testContext(t), "yard.v1.op.sessions.x", func(string, bus.Header, []byte) {}, func() { told <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	srv.Close()
	short, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err = l.Update(short, key, meta, increment)
	wantCode(t, err, api.CodeUnavailable)
	wantCode(t, c.Ready(short), api.CodeUnavailable)

	bustest.Start(t, ring, dir, listen)
	if _, err := l.Update(testContext(t), key, meta, increment); err != nil {
		t.Fatal(err)
	}
	await(t, told, "word of the reconnect")
}
