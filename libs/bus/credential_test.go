package bus

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"agentyard.dev/libs/api"
)

// TestParseCredential: a credentials file is read as the library of NATS reads it, in every form that it takes, and signs as the library does.
func TestParseCredential(t *testing.T) {
	t.Parallel()
	k, err := OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	id := api.NewID(api.KindSession)
	service, err := k.ServiceCredentials("sessions")
	if err != nil {
		t.Fatal(err)
	}
	session, err := k.SessionIssuer().Credentials("default", id)
	if err != nil {
		t.Fatal(err)
	}
	pod, err := k.SessionIssuer().PodCredentials(id, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	node, err := k.NodeCredentials("node1")
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.ParseDecoratedJWT(service)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := jwt.ParseDecoratedUserNKey(service)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		file   []byte
		inbox  string
		scoped bool
	}{
		"service":              {service, "_INBOX.sessions", false},
		"session":              {session, "_INBOX_" + id, true},
		"pod":                  {pod, "_INBOX_" + id, true},
		"node":                 {node, nodeInbox("node1"), false},
		"lines end with CR LF": {bytes.ReplaceAll(service, []byte("\n"), []byte("\r\n")), "_INBOX.sessions", false},
		"text before":          {append([]byte("kept by nobody\n---\n\n"), service...), "_INBOX.sessions", false},
		"no decoration":        {[]byte(token + "\n" + string(seed)), "", false}, // the library takes all of it for the token
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseCredential(c.file)
			if c.inbox == "" {
				if api.CodeOf(err) != api.CodeInvalid {
					t.Fatal(err)
				}
				return
			}
			if err != nil || got.inbox != c.inbox || got.scoped != c.scoped {
				t.Fatalf("%q, %v, %v", got.inbox, got.scoped, err)
			}
			token, err := jwt.ParseDecoratedJWT(c.file)
			if err != nil || got.token != token {
				t.Errorf("the token is %q, %v", got.token, err)
			}
			pair, err := jwt.ParseDecoratedUserNKey(c.file)
			if err != nil {
				t.Fatal(err)
			}
			if err := pair.Verify([]byte("nonce"), ed25519.Sign(got.key, []byte("nonce"))); err != nil {
				t.Error(err)
			}
		})
	}
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := account.Seed()
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{
		"nothing":           "",
		"a token alone":     strings.Replace(string(service), string(seed), "", 1),
		"an account's seed": strings.Replace(string(service), string(seed), string(wrong), 1),
		"no user's token":   strings.Replace(string(service), token, "e30.e30.e30", 1),
		"no JSON":           strings.Replace(string(service), token, "e30.AAAA.e30", 1),
		"no base64":         strings.Replace(string(service), token, "e30.====.e30", 1),
	} {
		if _, err := parseCredential([]byte(file)); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkParseCredential(b *testing.B) {
	k, err := OpenKeyring(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	creds, err := k.SessionIssuer().Credentials("default", api.NewID(api.KindSession))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := parseCredential(creds); err != nil {
			b.Fatal(err)
		}
	}
}
