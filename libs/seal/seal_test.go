package seal_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"agentyard.dev/libs/seal"
)

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func must(t *testing.T, keys ...[]byte) *seal.Keys {
	t.Helper()
	k, err := seal.NewKeys(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSeal(t *testing.T) {
	old := must(t, key(1))
	plain := []byte("correct horse battery staple")
	box, err := old.Seal("secret/acme/token", plain)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := old.Open("secret/acme/token", box); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("opened %q, %v", got, err)
	}
	again, err := old.Seal("secret/acme/token", plain)
	if err != nil || bytes.Equal(again.Data, box.Data) || bytes.Contains(box.Data, plain[:8]) {
		t.Error("two boxes of the same are alike, or the content shows")
	}
	t.Run("opens nowhere else, with no other key, and not when altered", func(t *testing.T) {
		if _, err := old.Open("secret/evil/token", box); err == nil {
			t.Error("opened in another place")
		}
		for i := range box.Data {
			bad := box
			bad.Data = bytes.Clone(box.Data)
			bad.Data[i] ^= 1
			if _, err := old.Open("secret/acme/token", bad); err == nil || strings.Contains(err.Error(), string(plain)) {
				t.Fatalf("altered at %d: %v", i, err)
			}
		}
		salted := box
		salted.Salt = key(9)
		if _, err := old.Open("secret/acme/token", salted); err == nil {
			t.Error("opened with another salt")
		}
		if _, err := must(t, key(2)).Open("secret/acme/token", box); err == nil {
			t.Error("opened with another key")
		}
	})
	t.Run("keys are replaced one after the other", func(t *testing.T) {
		both := must(t, key(2), key(1))
		if got, err := both.Open("secret/acme/token", box); err != nil || !bytes.Equal(got, plain) || !both.Stale(box) {
			t.Errorf("%q, %v, stale %v", got, err, both.Stale(box))
		}
		fresh, err := both.Seal("secret/acme/token", plain)
		if err != nil || both.Stale(fresh) {
			t.Fatalf("%v, stale %v", err, both.Stale(fresh))
		}
		if got, err := must(t, key(2)).Open("secret/acme/token", fresh); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestParseKeys(t *testing.T) {
	line := base64.StdEncoding.EncodeToString(key(7))
	keys, err := seal.ParseKeys([]byte("# newest first\n" + line + "\n\n " + line + " \n"))
	if err != nil || len(keys) != 2 || !bytes.Equal(keys[0], key(7)) {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	for _, bad := range []string{"", "# none", line[:20], "s3cret-that-is-no-key", line + line} {
		if _, err := seal.ParseKeys([]byte(bad)); err == nil || len(bad) > 10 && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := seal.NewKeys([]byte("short")); err == nil {
		t.Error("took a short key")
	}
	if _, err := seal.NewKeys(); err == nil {
		t.Error("took no key")
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(base64.StdEncoding.EncodeToString(key(7)) + "\n#\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := seal.ParseKeys(text)
		if err != nil {
			return
		}
		if _, err := seal.NewKeys(keys...); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}
