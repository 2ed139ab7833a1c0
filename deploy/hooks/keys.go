package main

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"agentyard.dev/libs/bus"
)

// keysTimeout bounds the job, whose few requests take well under a second.
const keysTimeout = time.Minute

// yard is what the keys job is told of the yard.
type yard struct {
	name               string // begins the names of its Secrets
	oldest, generation int    // of signing keys
	servers            int    // of the chart nats; 0: the bus is another's
}

// secrets are the names of the yard's Secrets, in the order of making them: what others are made from comes first.
func (y yard) secrets() []string {
	names := []string{"keyring", "auth", "admin", "redis", "nats-trust", "sessions-secrets", "scheduler-secrets"}
	for _, service := range bus.Services {
		names = append(names, service+"-bus")
	}
	for i, n := range names {
		names[i] = y.name + "-" + n
	}
	return names
}

func runKeys(ctx context.Context, args []string, logger *slog.Logger) error {
	var y yard
	fs := flag.NewFlagSet("keys", flag.ContinueOnError)
	fs.StringVar(&y.name, "yard", "", "`name` of the yard")
	fs.IntVar(&y.generation, "generation", 0, "`generation` of keys that services' credentials are made with")
	fs.IntVar(&y.oldest, "oldest", 0, "oldest `generation` that the bus believes")
	fs.IntVar(&y.servers, "servers", 0, "`number` of servers of the bus; 0: it is not the charts'")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if y.name == "" || fs.NArg() > 0 {
		return fmt.Errorf("keys: want -yard and no arguments, got %q", args)
	}
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	cluster, err := inCluster()
	if err != nil {
		return err
	}
	return cluster.makeKeys(ctx, y, logger)
}

// makeKeys makes the Secrets that are missing and renews those that are outdated. Run again it changes nothing but the trust
// configuration, which is signed anew. Two that run at the same time agree: the first to create a Secret wins.
func (c *cluster) makeKeys(ctx context.Context, y yard, logger *slog.Logger) error {
	have := map[string]secret{}
	for _, name := range y.secrets() {
		s, err := c.get(ctx, name)
		if err != nil {
			return err
		}
		if s != nil {
			have[name] = *s
		}
		want, err := y.next(name, have)
		if err != nil {
			return fmt.Errorf("secret %s: %w", name, err)
		}
		if want == nil {
			continue
		}
		made, err := c.put(ctx, *want)
		if err != nil {
			return err
		}
		have[name] = *made
		logger.InfoContext(ctx, "secret written", "secret", name)
	}
	return nil
}

// The annotations by which a credential tells what it was made with.
const (
	generationNote = "agentyard.dev/generation"
	keyringNote    = "agentyard.dev/keyring" // the keyring Secret's UID
)

// next returns what the Secret name shall be, or nil when it is right as it is. have holds it, if it exists, and those before it.
func (y yard) next(name string, have map[string]secret) (*secret, error) {
	old, exists := have[name]
	want := secret{Name: name, Version: old.Version, Data: map[string][]byte{}, Notes: map[string]string{}}
	what := strings.TrimPrefix(name, y.name+"-")
	service, isBus := strings.CutSuffix(what, "-bus")
	ring := have[y.name+"-keyring"]

	switch {
	case what == "keyring":
		if exists {
			return nil, nil
		}
		data, err := newKeyring()
		if err != nil {
			return nil, err
		}
		want.Data["keyring.json"] = data
	case what == "auth":
		if exists {
			return nil, nil // what protects keys at rest is never replaced
		}
		want.Data["auth.secret"] = random(32)
	case what == "admin":
		if exists {
			return nil, nil
		}
		want.Data["admin.key"] = []byte(newAPIKey() + "\n")
	case what == "redis":
		if exists {
			return nil, nil
		}
		password := hex.EncodeToString(random(24))
		want.Data["auth.conf"] = []byte("requirepass " + password + "\n")
		want.Data["redis.url"] = []byte("redis://:" + password + "@" + y.name + "-redis:6379/0")
	case what == "sessions-secrets", what == "scheduler-secrets":
		generation := fmt.Sprint(y.generation)
		if exists && old.Notes[generationNote] == generation {
			return nil, nil
		}
		want.Notes[generationNote] = generation
		want.Data["secret.keys"] = sealingKeys(old.Data["secret.keys"])
	case what == "nats-trust":
		keys, err := y.keyring(ring)
		if err != nil {
			return nil, err
		}
		if want.Data["trust.conf"], err = keys.TrustConfig(); err != nil {
			return nil, err
		}
		password := string(old.Data["route.password"])
		if password == "" {
			password = hex.EncodeToString(random(24))
		}
		want.Data["route.password"] = []byte(password)
		want.Data["cluster.conf"] = y.routes(password)
	case isBus:
		generation := fmt.Sprint(y.generation)
		if exists && old.Notes[generationNote] == generation && old.Notes[keyringNote] == ring.UID {
			return nil, nil
		}
		want.Notes[generationNote], want.Notes[keyringNote] = generation, ring.UID
		keys, err := y.keyring(ring)
		if err != nil {
			return nil, err
		}
		if want.Data["bus.creds"], err = keys.ServiceCredentials(service); err != nil {
			return nil, err
		}
		if service == "sessions" { // which mints the credentials of sessions, and of nobody else
			want.Data["session.issuer"] = keys.SessionIssuer().Marshal()
		}
	default:
		return nil, fmt.Errorf("nobody knows how to make %q", what)
	}
	return &want, nil
}

// sealingKeys returns the keys that seal what people store with a service, one a line: the first seals, all open. The last is
// the next to seal, so that a replica that has not been started again yet opens what one that has sealed. None is ever left out.
func sealingKeys(old []byte) []byte {
	next := func() string { return base64.StdEncoding.EncodeToString(random(32)) }
	keys := strings.Fields(string(old))
	if len(keys) < 2 {
		keys = append(keys, next())
	}
	if len(keys) > 1 {
		keys = append(keys[len(keys)-1:], keys[:len(keys)-1]...)
	}
	return []byte(strings.Join(append(keys, next()), "\n") + "\n")
}

// routes is how the servers of the bus find and believe each other.
func (y yard) routes(password string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "authorization { user: route, password: %q, timeout: 5 }\nroutes: [\n", password)
	for i := range y.servers {
		fmt.Fprintf(&b, "  \"nats://route:%s@%s-nats-%d.%s-nats-headless:6222\"\n", password, y.name, i, y.name)
	}
	b.WriteString("]\n")
	return []byte(b.String())
}

// keyring returns the keyring that its Secret holds, in the yard's generations.
func (y yard) keyring(s secret) (*bus.Keyring, error) {
	var keys *bus.Keyring
	err := keyringDir(func(dir string) error {
		err := os.WriteFile(filepath.Join(dir, "keyring.json"), s.Data["keyring.json"], 0o600)
		if err == nil {
			keys, err = bus.OpenKeyring(dir)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return keys.Generations(y.oldest, y.generation)
}

// newKeyring returns the secret form of a fresh keyring.
func newKeyring() (data []byte, err error) {
	err = keyringDir(func(dir string) error {
		if _, err := bus.OpenKeyring(dir); err != nil {
			return err
		}
		data, err = os.ReadFile(filepath.Join(dir, "keyring.json"))
		return err
	})
	return data, err
}

// keyringDir calls f with a directory for a keyring, which is removed afterwards. In a pod it is memory (the chart mounts /tmp).
func keyringDir(f func(dir string) error) error {
	dir, err := os.MkdirTemp("", "keyring-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	return f(dir)
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // crypto/rand.Read never returns an error
	return b
}

// newAPIKey returns a key in the form that services/auth reads: ay_<10>_<40><CRC-32 of what is before>, in lower-case base32.
func newAPIKey() string {
	encode := base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding).EncodeToString
	body := "ay_" + encode(random(7))[:10] + "_" + encode(random(25))
	return body + encode(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(body))))
}
