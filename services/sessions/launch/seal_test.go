package launch_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/services/sessions/launch"
)

// TestSeal: what is sealed to a pod opens with its key, for it, whole; nothing else does.
func TestSeal(t *testing.T) {
	t.Parallel()
	pod, err := launch.NewOpener()
	if err != nil {
		t.Fatal(err)
	}
	other, err := launch.NewOpener()
	if err != nil {
		t.Fatal(err)
	}
	to, err := launch.NewSealer(pod.Public())
	if err != nil {
		t.Fatal(err)
	}
	text := []byte(`{"credentials":"secret"}`)
	sealed, err := to.Seal("s1", "u1", text)
	if err != nil || bytes.Contains(sealed, []byte("secret")) {
		t.Fatalf("%q, %v", sealed, err)
	}
	if got, err := pod.Open("s1", "u1", sealed); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%q, %v", got, err)
	}
	// The largest that the bus takes plain: files of which nothing can be said, as text.
	random := make([]byte, 2700<<10)
	_, _ = rand.Read(random) // never fails
	large := []byte(`"` + base64.StdEncoding.EncodeToString(random) + `"`)
	if sealed, err := to.Seal("s1", "u1", large); err != nil || base64.StdEncoding.EncodedLen(len(sealed)) > bus.MaxPayload-4096 {
		t.Errorf("%d bytes are %d when sealed: %v", len(large), len(sealed), err)
	} else if got, err := pod.Open("s1", "u1", sealed); err != nil || !bytes.Equal(got, large) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	bent := bytes.Clone(sealed)
	bent[len(bent)-1] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"another's key": func() ([]byte, error) { return other.Open("s1", "u1", sealed) },
		"another id":    func() ([]byte, error) { return pod.Open("s2", "u1", sealed) },
		"another UID":   func() ([]byte, error) { return pod.Open("s1", "u2", sealed) },
		"changed":       func() ([]byte, error) { return pod.Open("s1", "u1", bent) },
		"cut short":     func() ([]byte, error) { return pod.Open("s1", "u1", sealed[:20]) },
		"nothing":       func() ([]byte, error) { return pod.Open("s1", "u1", nil) },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s opens it: %q", name, got)
		}
	}
	for _, key := range [][]byte{nil, {1, 2, 3}, make([]byte, 33)} {
		if _, err := launch.NewSealer(key); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%d bytes are a key: %v", len(key), err)
		}
	}
	nowhere, err := launch.NewSealer(make([]byte, 32)) // a point of low order: every key leads to the same secret
	if err == nil {
		_, err = nowhere.Seal("s1", "u1", text)
	}
	if api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("sealed to nobody: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	pod, err := launch.NewOpener()
	if err != nil {
		f.Fatal(err)
	}
	to, err := launch.NewSealer(pod.Public())
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := to.Seal("s1", "u1", []byte("{}"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := pod.Open("s1", "u1", data); err == nil && !bytes.Equal(data, sealed) {
			t.Error("something else was opened")
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	text := make([]byte, 4<<10)
	for b.Loop() {
		pod, err := launch.NewOpener()
		if err != nil {
			b.Fatal(err)
		}
		to, err := launch.NewSealer(pod.Public())
		if err != nil {
			b.Fatal(err)
		}
		sealed, err := to.Seal("s1", "u1", text)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := pod.Open("s1", "u1", sealed); err != nil {
			b.Fatal(err)
		}
	}
}
