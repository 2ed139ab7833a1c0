package bus_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// A stock server with the keyring's trust configuration, as an operator runs it.
func TestTrustConfigRotates(t *testing.T) {
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	generation := func(oldest, newest int) *bus.Keyring {
		k, err := ring.Generations(oldest, newest)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	credentials := func(k *bus.Keyring) (service, session []byte) {
		service, err := k.ServiceCredentials("auth")
		if err != nil {
			t.Fatal(err)
		}
		issuer, err := bus.ParseSessionIssuer(k.SessionIssuer().Marshal())
		if err != nil {
			t.Fatal(err)
		}
		if session, err = issuer.Credentials("default", api.NewID(api.KindSession)); err != nil {
			t.Fatal(err)
		}
		return service, session
	}

	dir := t.TempDir()
	file := filepath.Join(dir, "nats.conf")
	write := func(k *bus.Keyring) {
		trust, err := k.TrustConfig()
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"nats.conf":  "listen: 127.0.0.1:-1\njetstream { store_dir: '" + dir + "/store' }\ninclude trust.conf\n",
			"trust.conf": string(trust),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(generation(0, 0))
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs, opts.NoLog = true, true
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the server did not start")
	}
	enters := func(creds []byte) bool {
		nc, err := nats.Connect(srv.ClientURL(), nats.UserCredentialBytes(creds), nats.NoReconnect(), nats.Timeout(patience))
		if err == nil {
			nc.Close()
		}
		return err == nil
	}

	oldService, oldSession := credentials(ring)
	newService, newSession := credentials(generation(0, 1))
	lateService, _ := credentials(generation(1, 2))
	check := func(when string, creds []byte, want bool) {
		t.Helper()
		if got := enters(creds); got != want {
			t.Errorf("%s: let in %v, want %v", when, got, want)
		}
	}
	check("generation 0 at first", oldService, true)
	check("a session of generation 0 at first", oldSession, true)
	check("generation 1, which comes next", newService, true)
	check("a session of generation 1", newSession, true)
	check("generation 2", lateService, false)

	held, err := nats.Connect(srv.ClientURL(), nats.UserCredentialBytes(oldSession), nats.NoReconnect(), nats.CustomInboxPrefix("x"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(held.Close)
	<-time.After(1100 * time.Millisecond) // a rotation is never in the second of the start, and what is signed tells seconds
	write(generation(1, 1))
	if err := srv.Reload(); err != nil {
		t.Fatal(err)
	}
	check("generation 0 once it is retired", oldService, false)
	check("a session of generation 0 once it is retired", oldSession, false)
	check("generation 1", newService, true)
	check("generation 2, which comes next", lateService, true)
	eventually(t, "who was in with a retired credential is thrown out", held.IsClosed)
}

func TestGenerationsAreBounded(t *testing.T) {
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range [][2]int{{-1, 0}, {1, 0}, {0, 8}} {
		if _, err := ring.Generations(g[0], g[1]); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%v: got %v", g, err)
		}
	}
}
