package main

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// made runs the decisions of the keys job on what is there, as the job does, and returns what it writes.
func made(t *testing.T, y yard, have map[string]secret) map[string]secret {
	t.Helper()
	written, seen := map[string]secret{}, map[string]secret{}
	for _, name := range y.secrets() {
		if s, ok := have[name]; ok {
			seen[name] = s
		}
		want, err := y.next(name, seen)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			continue
		}
		version := 0
		if want.Version != "" {
			if version, err = strconv.Atoi(want.Version); err != nil {
				t.Fatal(err)
			}
		}
		want.Version = strconv.Itoa(version + 1) // as the Kubernetes API does
		if want.UID = have[name].UID; want.UID == "" {
			want.UID = "uid-of-" + name
		}
		written[name], seen[name] = *want, *want
	}
	return written
}

func names(secrets map[string]secret) string {
	return strings.Join(slices.Sorted(maps.Keys(secrets)), " ")
}

func with(old, new map[string]secret) map[string]secret {
	all := maps.Clone(old)
	maps.Copy(all, new)
	return all
}

func TestKeys(t *testing.T) {
	y := yard{name: "yard", servers: 3}
	first := made(t, y, nil)
	const everything = "yard-admin yard-auth yard-auth-bus yard-gateway-bus yard-keyring yard-nats-trust yard-redis yard-scheduler-bus yard-scheduler-secrets yard-sessions-bus yard-sessions-secrets yard-tcagent-bus yard-tcnode-bus"
	if got := names(first); got != everything {
		t.Fatalf("the first run writes %s", got)
	}
	t.Run("each Secret holds what its user needs and no more", func(t *testing.T) {
		want := map[string][]string{
			"yard-keyring": {"keyring.json"}, "yard-auth": {"auth.secret"}, "yard-admin": {"admin.key"},
			"yard-redis": {"auth.conf", "redis.url"}, "yard-nats-trust": {"cluster.conf", "route.password", "trust.conf"},
			"yard-sessions-bus": {"bus.creds", "session.issuer"}, "yard-sessions-secrets": {"secret.keys"}, "yard-scheduler-secrets": {"secret.keys"},
		}
		for name, s := range first {
			keys := want[name]
			if keys == nil {
				keys = []string{"bus.creds"}
			}
			if got := slices.Sorted(maps.Keys(s.Data)); !slices.Equal(got, keys) {
				t.Errorf("%s holds %q", name, got)
			}
		}
		if n := len(first["yard-auth"].Data["auth.secret"]); n != 32 {
			t.Errorf("auth.secret has %d bytes", n)
		}
		if bytes.Contains(first["yard-nats-trust"].Data["trust.conf"], []byte("seed")) {
			t.Error("the trust configuration holds a seed")
		}
		if n := strings.Count(string(first["yard-nats-trust"].Data["cluster.conf"]), "nats://route:"); n != 3 {
			t.Errorf("%d routes", n)
		}
	})
	t.Run("the next run signs the trust configuration anew and changes nothing else", func(t *testing.T) {
		again := made(t, y, first)
		if got := names(again); got != "yard-nats-trust" {
			t.Errorf("writes %s", got)
		}
		old, now := first["yard-nats-trust"], again["yard-nats-trust"]
		if now.Version != "2" || !bytes.Equal(old.Data["cluster.conf"], now.Data["cluster.conf"]) {
			t.Error("the servers would not know each other during the change")
		}
	})
	t.Run("a lost Secret is made again, the others stay", func(t *testing.T) {
		have := maps.Clone(first)
		delete(have, "yard-sessions-bus")
		if got := names(made(t, y, have)); got != "yard-nats-trust yard-sessions-bus" {
			t.Errorf("writes %s", got)
		}
	})
	t.Run("a new generation makes new credentials", func(t *testing.T) {
		y := yard{name: "yard", servers: 3, generation: 1}
		rotated := made(t, y, first)
		if got := names(rotated); got != "yard-auth-bus yard-gateway-bus yard-nats-trust yard-scheduler-bus yard-scheduler-secrets yard-sessions-bus yard-sessions-secrets yard-tcagent-bus yard-tcnode-bus" {
			t.Errorf("writes %s", got)
		}
		if bytes.Equal(first["yard-sessions-bus"].Data["session.issuer"], rotated["yard-sessions-bus"].Data["session.issuer"]) {
			t.Error("the session issuer is the same")
		}
		if got := names(made(t, y, with(first, rotated))); got != "yard-nats-trust" {
			t.Errorf("then writes %s", got)
		}
	})
	t.Run("what was sealed opens in every later generation, and what the next one seals in this one", func(t *testing.T) {
		keys := func(s secret) []string { return strings.Fields(string(s.Data["secret.keys"])) }
		have := first
		for g := 1; g <= 3; g++ {
			before := keys(have["yard-sessions-secrets"])
			have = with(have, made(t, yard{name: "yard", servers: 3, generation: g}, have))
			after := keys(have["yard-sessions-secrets"])
			if len(before) != g+1 || len(after) != g+2 {
				t.Fatalf("generation %d: %d keys, then %d", g, len(before), len(after))
			}
			if after[0] == before[0] || !slices.Contains(before, after[0]) {
				t.Errorf("generation %d seals with a key that the one before does not know, or the same", g)
			}
			for _, k := range before {
				if !slices.Contains(after, k) {
					t.Errorf("generation %d lost a key", g)
				}
			}
		}
	})
	t.Run("another keyring makes new credentials", func(t *testing.T) {
		have := maps.Clone(first)
		other := have["yard-keyring"]
		other.UID = "another"
		have["yard-keyring"] = other
		if got := made(t, y, have); len(got) != 7 {
			t.Errorf("writes %s", names(got))
		}
	})
	t.Run("generations that nobody can mean are refused", func(t *testing.T) {
		if _, err := (yard{name: "yard", oldest: 2, generation: 1}).next("yard-nats-trust", first); err == nil {
			t.Error("no error")
		}
	})
	t.Run("a keyring that cannot be read is no reason to make another", func(t *testing.T) {
		have := map[string]secret{"yard-keyring": {Name: "yard-keyring", Data: map[string][]byte{"keyring.json": []byte("{")}}}
		if _, err := y.next("yard-auth-bus", have); err == nil {
			t.Error("no error")
		}
	})
}
