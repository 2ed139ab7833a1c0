package sessions_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
)

const authFile = ".config/agent/auth.json"

// signIn is a file with two sign-ins, as of some agent; expiries are in seconds after some moment.
func signIn(a string, aExpires int, b string, bExpires int) string {
	const moment = 1_800_000_000
	return fmt.Sprintf(`{"one":{"token":"%s","expires":%d},"two":{"token":"%s","expires":%d}}`, a, moment+aExpires, b, moment+bExpires)
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	y := newSecretYard(t, nil)
	ana, ben, boss := y.as("ana"), y.as("ben"), y.as("boss", api.RoleAdmin)
	y.profile(boss, api.Profile{Name: "kept", Credentials: &api.CredentialSync{Files: []string{authFile}}})
	home := func(id string) string {
		return filepath.Join(y.dir, "sessions", id, "home", filepath.FromSlash(authFile))
	}
	start := func() api.Session { return y.create(ana, api.CreateSessionRequest{Profile: "kept", Wait: "running"}) }
	holds := func(id, want string) {
		t.Helper()
		y.eventually("the home of "+id+" holds what it should", func() bool {
			data, err := os.ReadFile(home(id))
			return err == nil && string(data) == want
		})
	}
	// refresh replaces the file as an agent does: beside it, then in its place. The content is not in the log.
	refresh := func(id, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(home(id)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(home(id)+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(home(id)+".new", home(id)); err != nil {
			t.Fatal(err)
		}
	}
	stored := func() api.Credential {
		t.Helper()
		page, err := rpc.Call(ana, y.client, api.ListCredentials, api.List{})
		if err != nil || len(page.Items) > 1 {
			t.Fatalf("%+v, %v", page, err)
		}
		if len(page.Items) == 0 {
			return api.Credential{}
		}
		return page.Items[0]
	}
	// next starts another session and says what it was given.
	next := func() string {
		t.Helper()
		data, err := os.ReadFile(home(start().ID))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}

	first := signIn("one-original-token", 10, "two-original-token", 10)
	if _, err := rpc.Call(ana, y.client, api.PutCredential, api.PutCredentialRequest{File: authFile, Data: []byte(first)}); err != nil {
		t.Fatal(err)
	}
	a, b := start(), start()
	holds(a.ID, first)
	holds(b.ID, first)

	t.Run("the owner's sessions have it, nobody else's and no other profile's", func(t *testing.T) {
		s := y.create(ben, api.CreateSessionRequest{Profile: "kept", Wait: "running"})
		if _, err := os.Stat(home(s.ID)); err == nil {
			t.Error("ben's session has ana's file")
		}
		s = y.create(ana, api.CreateSessionRequest{Wait: "running"})
		if _, err := os.Stat(home(s.ID)); err == nil {
			t.Error("a session of another profile has it")
		}
		if fi, err := os.Stat(home(a.ID)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", fi, err)
		}
		page, err := rpc.Call(ben, y.client, api.ListCredentials, api.List{})
		if err != nil || len(page.Items) != 0 {
			t.Errorf("ben sees %+v, %v", page, err)
		}
	})
	t.Run("two sessions that refresh at once both keep theirs", func(t *testing.T) {
		var wg sync.WaitGroup
		wg.Go(func() { refresh(a.ID, signIn("one-of-a-token", 100, "two-original-token", 10)) })
		wg.Go(func() { refresh(b.ID, signIn("one-original-token", 10, "two-of-b-token", 100)) })
		wg.Wait()
		both := signIn("one-of-a-token", 100, "two-of-b-token", 100)
		y.eventually("both refreshes are stored", func() bool { return stored().Session != "" && next() == both })
	})
	t.Run("an older refresh does not replace a newer one, and its session learns the newer", func(t *testing.T) {
		before := stored()
		newest := signIn("one-newest-token", 1000, "two-newest-token", 1000)
		refresh(a.ID, newest)
		y.eventually("it is stored", func() bool { return stored().Version > before.Version })
		refresh(b.ID, signIn("one-late-but-older-token", 500, "two-late-but-older-token", 500))
		holds(b.ID, newest)
		if got := next(); got != newest {
			t.Errorf("the next session is given %s", got)
		}
		if got := stored(); got.Session != a.ID || got.Stamp == nil || got.Stamp.Unix() != 1_800_001_000 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("what is half written, too large or a link is not taken", func(t *testing.T) {
		before := stored()
		refresh(b.ID, `{"one":{"token":"half`)
		other := start()
		outside := filepath.Join(t.TempDir(), "outside.json")
		if err := os.WriteFile(outside, []byte(signIn("of-the-machine", 5000, "x", 5000)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(home(other.ID)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, home(other.ID)); err != nil {
			t.Fatal(err)
		}
		large := start()
		refresh(large.ID, `{"one":{"token":"`+strings.Repeat("x", 70<<10)+`","expires":1900000000}}`)
		for _, s := range []api.Session{b, other, large} { // when they end they are looked at once more
			if _, err := rpc.Call(ana, y.client, api.PauseSession, api.SessionRef{ID: s.ID}); err != nil {
				t.Fatal(err)
			}
			y.reaches(ana, s.ID, api.StatePaused)
		}
		if now := stored(); now.Version != before.Version {
			t.Errorf("stored %+v, before %+v", now, before)
		}
	})
	t.Run("what was refreshed just before the end is kept", func(t *testing.T) {
		last := signIn("one-last-token", 2000, "two-last-token", 2000)
		refresh(a.ID, last)
		if _, err := rpc.Call(ana, y.client, api.DeleteSession, api.SessionRef{ID: a.ID}); err != nil {
			t.Fatal(err)
		}
		y.reaches(ana, a.ID, api.StateTerminated)
		// A session that was paused meanwhile has an older file in its home.
		m := y.send(ana, b.ID, "echo back")
		y.answer(ana, b.ID, m.ID)
		holds(b.ID, last)
	})
	t.Run("forgotten is forgotten", func(t *testing.T) {
		if _, err := rpc.Call(ana, y.client, api.DeleteCredential, api.CredentialRequest{File: authFile}); err != nil {
			t.Fatal(err)
		}
		refresh(b.ID, signIn("one-after-token", 3000, "two-after-token", 3000))
		if _, err := rpc.Call(ana, y.client, api.PauseSession, api.SessionRef{ID: b.ID}); err != nil {
			t.Fatal(err)
		}
		y.reaches(ana, b.ID, api.StatePaused)
		if got := stored(); got.Version != 0 {
			t.Errorf("stored again: %+v", got)
		}
		// A session that was given none begins a new one.
		s := start()
		refresh(s.ID, first)
		y.eventually("it is stored", func() bool { return stored().Session == s.ID })
	})
	t.Run("a runner may bring its own session's files only", func(t *testing.T) {
		s := start()
		client := rpc.NewClient(bustest.ConnectSession(t, y.srv, y.ring, s.Tenant, s.ID), rpc.ClientConfig{})
		_, err := rpc.CallAsSession(t.Context(), client, s.Tenant, s.ID, api.RunnerCredential, api.RunnerCredentialRequest{File: ".ssh/id_ed25519", Data: []byte("x")})
		wantCode(t, err, api.CodeDenied, "no such file")
		_, err = rpc.CallAsSession(t.Context(), client, s.Tenant, s.ID, api.RunnerCredential, api.RunnerCredentialRequest{File: authFile, Data: []byte("{")})
		wantCode(t, err, api.CodeInvalid, "/data")
	})
	y.nowhere("one-original-token", "two-of-b-token", "one-of-a-token", "one-newest-token", "two-last-token", "one-late-but-older-token")
}

// TestCredentialRace has many sessions' refreshes meet at once: none is lost.
func TestCredentialRace(t *testing.T) {
	t.Parallel()
	y := newSecretYard(t, nil)
	ana, boss := y.as("ana"), y.as("boss", api.RoleAdmin)
	y.profile(boss, api.Profile{Name: "kept", Credentials: &api.CredentialSync{Files: []string{authFile}}})
	s := y.create(ana, api.CreateSessionRequest{Profile: "kept", Wait: "running"})
	client := rpc.NewClient(bustest.ConnectSession(t, y.srv, y.ring, s.Tenant, s.ID), rpc.ClientConfig{Timeout: patience})
	const n = 16
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			data := fmt.Sprintf(`{"p%d":{"token":"t","expires":18000000%02d}}`, i, i)
			_, err := rpc.CallAsSession(t.Context(), client, s.Tenant, s.ID, api.RunnerCredential, api.RunnerCredentialRequest{File: authFile, Data: []byte(data)})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	next := y.create(ana, api.CreateSessionRequest{Profile: "kept", Wait: "running"})
	data, err := os.ReadFile(filepath.Join(y.dir, "sessions", next.ID, "home", filepath.FromSlash(authFile)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if !strings.Contains(string(data), fmt.Sprintf(`"p%d":`, i)) {
			t.Errorf("sign-in %d was lost", i)
		}
	}
}
