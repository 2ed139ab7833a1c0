package auth

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
)

// keyOf returns the id of the key that signed a token.
func keyOf(t *testing.T, raw string) string {
	t.Helper()
	head, _, _ := strings.Cut(raw, ".")
	data, err := cursorEncoding.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	var h struct{ Kid string }
	if err := json.Unmarshal(data, &h); err != nil || h.Kid == "" {
		t.Fatalf("%s: %v", data, err)
	}
	return h.Kid
}

func TestRotation(t *testing.T) {
	y := newYard(t)
	replicas := []*replica{y.start(y.config()), y.start(Config{SecretFile: y.config().SecretFile})}
	admin := y.as(y.adminKey())
	first := keyOf(t, admin.raw)
	published := func() map[string]ed25519.PublicKey {
		t.Helper()
		set, err := rpc.Call(t.Context(), y.client, api.JWKS, api.None{})
		if err != nil {
			t.Fatal(err)
		}
		keys, err := token.ParseJWKS(set)
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	// step has both replicas look, as each might lead, and waits until every service has the same keys.
	step := func() {
		t.Helper()
		for _, r := range replicas {
			if err := r.signing.step(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		ring := *replicas[0].signing.ring.Load()
		until(t, "every service follows the rotation", func() bool {
			same := len(*replicas[1].signing.ring.Load()) == len(ring)
			for _, s := range []map[string]ed25519.PublicKey{y.trust.VerifyingKeys(), replicas[0].trust.VerifyingKeys(), replicas[1].trust.VerifyingKeys()} {
				same = same && len(s) == len(ring)
				for _, k := range ring {
					same = same && s[k.ID] != nil
				}
			}
			return same
		})
	}

	step()
	if keys := published(); len(keys) != 1 || keys[first] == nil {
		t.Fatalf("publishes %v, want %s", keys, first)
	}
	// Shortly before its time is over the next key is published, and does not sign yet.
	y.clock.advance(DefaultRotateEvery - maxPublishLead)
	step()
	if keys := published(); len(keys) != 2 || keys[first] == nil {
		t.Fatalf("publishes %d keys, want the next one too", len(keys))
	}
	y.clock.advance(maxPublishLead - time.Minute)
	old := y.as(admin.key)
	if keyOf(t, old.raw) != first {
		t.Fatal("the next key signs before its time")
	}
	// Its time has come: it signs, and what the old one signed last verifies until it expires.
	y.clock.advance(time.Minute + 10*time.Second)
	step()
	fresh := y.as(admin.key)
	if keyOf(t, fresh.raw) == first {
		t.Fatal("the old key still signs")
	}
	for _, c := range []*caller{fresh, old} {
		if _, err := y.verify.Verify(t.Context(), c.raw); err != nil {
			t.Fatalf("the token of key %s: %v", keyOf(t, c.raw), err)
		}
	}
	y.clock.advance(DefaultTokenTTL + retireSlack)
	step()
	if keys := published(); len(keys) != 1 || keys[first] != nil {
		t.Fatalf("publishes %v: the old key is not retired", keys)
	}
	if len(*replicas[0].signing.ring.Load()) != 1 {
		t.Error("the retired private key is kept")
	}
	// A leader that was away for a week rotates late, but publishes first.
	y.clock.advance(7 * 24 * time.Hour)
	step()
	if keys := published(); len(keys) != 2 {
		t.Fatalf("publishes %d keys", len(keys))
	}
	if got := keyOf(t, y.as(admin.key).raw); got != keyOf(t, fresh.raw) {
		t.Error("an unpublished key signs")
	}
}

func TestSealedKeys(t *testing.T) {
	y := newYard(t)
	r := y.start(y.config())
	y.as(y.adminKey())
	e, err := r.signing.Get(t.Context(), ringKey)
	wantCode(t, err, "")
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	ring := *r.signing.ring.Load()
	if len(ring) != 1 || len(e.State.Keys) != 1 {
		t.Fatalf("%d keys", len(ring))
	}
	seed := ring[0].Private.Seed()
	plain, _ := json.Marshal(seed)
	if bytes.Contains(e.State.Keys[0].Sealed, seed) || bytes.Contains(raw, bytes.Trim(plain, `"`)) {
		t.Error("the ledger holds the private key")
	}
	good, err := r.signing.unseal(e.State.Keys[0])
	wantCode(t, err, "")
	if !good.Private.Equal(ring[0].Private) {
		t.Error("unseals another key")
	}
	t.Run("is bound to its id", func(t *testing.T) {
		k := e.State.Keys[0]
		k.ID = "other"
		if _, err := r.signing.unseal(k); err == nil {
			t.Error("opens under another id")
		}
	})
	t.Run("opens with no other secret", func(t *testing.T) {
		var other secret
		sl, err := newSealer(other.derive("signing key seal v1"))
		wantCode(t, err, "")
		if _, err := sl.open(e.State.Keys[0].ID, e.State.Keys[0].Sealed); err == nil {
			t.Error("opens")
		}
	})
	r.stop(t)

	refuses := func(t *testing.T, cfg Config, want string) {
		t.Helper()
		r := y.launch(cfg)
		select {
		case err := <-r.done:
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		case <-time.After(patience):
			r.cancel()
			t.Fatalf("goes on: %v", <-r.done)
		}
	}
	t.Run("a start without the secret is refused and makes none", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "new.secret")
		refuses(t, Config{SecretFile: path}, "bring it back")
		if _, err := os.Stat(path); err == nil {
			t.Error("a secret was made")
		}
	})
	t.Run("a start with another secret is refused", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "other.secret")
		if err := os.WriteFile(path, bytes.Repeat([]byte{7}, secretFileBytes), 0o600); err != nil {
			t.Fatal(err)
		}
		refuses(t, Config{SecretFile: path}, "not the one")
		after, err := r.signing.Get(context.Background(), ringKey)
		wantCode(t, err, "")
		if after.Rev != e.Rev {
			t.Error("the ring was changed")
		}
	})
	t.Run("a start with a short secret is refused", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "short.secret")
		if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
			t.Fatal(err)
		}
		refuses(t, Config{SecretFile: path}, "want 32")
	})
	t.Run("the secret file is private", func(t *testing.T) {
		info, err := os.Stat(y.config().SecretFile)
		wantCode(t, err, "")
		if info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
	})
	t.Run("a start with the right secret goes on", func(t *testing.T) {
		y.start(y.config())
		y.as(y.adminKey())
	})
}
