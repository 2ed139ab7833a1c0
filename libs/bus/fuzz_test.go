package bus

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"agentyard.dev/libs/api"
)

func FuzzDecodeEntry(f *testing.F) {
	for _, s := range []string{
		`{"type":"agent_message","content":"x","unknown":[1]}`, `[{"type":"status"},{"type":"usage","usage":{}}]`,
		`[]`, ``, ` `, `{`, `[1]`, `null`, `[null]`, `{"seq":7,"session":"other","raw":{}}`, `[{"at":"x"}]`, "[" + strings.Repeat("{},", 2000) + "{}]",
	} {
		f.Add([]byte(s), uint64(5))
	}
	f.Fuzz(func(t *testing.T, data []byte, seq uint64) {
		seq = seq%(1<<40) + 1
		evs := decodeEntry("s1", stored{seq: seq, data: data})
		if len(evs) == 0 || len(evs) > maxEntry {
			t.Fatalf("%d events", len(evs))
		}
		last := (seq - 1) * seqStride
		for _, ev := range evs {
			if ev.Seq <= last || ev.Seq > seq*seqStride || ev.Session != "s1" {
				t.Fatalf("event %+v after %d", ev, last)
			}
			if next := nextEntry(ev.Seq); next != seq && (next != seq+1 || ev.Seq != seq*seqStride) {
				t.Fatalf("after %d comes entry %d, of entry %d", ev.Seq, next, seq)
			}
			last = ev.Seq
		}
		for _, ev := range spliced("s1", stored{seq: seq, data: data}) {
			if bytes.ContainsAny(ev.JSON, "\r\n") || strings.ContainsAny(string(ev.Type), " \r\n:") {
				t.Fatalf("%q of type %q breaks a frame", ev.JSON, ev.Type)
			}
			var envelope struct {
				Seq     uint64 `json:"seq"`
				Session string `json:"session"`
			}
			if err := json.Unmarshal(ev.JSON, &envelope); err != nil || envelope.Seq != ev.Seq || envelope.Session != "s1" || ev.Seq > seq*seqStride {
				t.Fatalf("%q at %d: %+v, %v", ev.JSON, ev.Seq, envelope, err)
			}
		}
	})
}

func FuzzCheckToken(f *testing.F) {
	for _, s := range []string{"acme", "s2345", "a.b", "*", ">", "", " ", "a b", "\x00", "é", "a\r\nPUB x 0", "{{name()}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		err := checkToken("id", s)
		if err != nil {
			if api.CodeOf(err) != api.CodeInvalid {
				t.Fatal(err)
			}
			return
		}
		if subject := api.LedgerPrefix + "sessions.acme." + s; !server.IsValidPublishSubject(subject) || strings.Count(subject, ".") != 4 || strings.ContainsAny(s, " {}\"\\\r\n\t") {
			t.Fatalf("accepted %q", s)
		}
	})
}

func FuzzParseDelivery(f *testing.F) {
	f.Add("$JS.ACK.SESSIONS.abc.1.10.2.1700000000.0")
	f.Add("$JS.ACK._.hash.SESSIONS.abc.1.10.2.1700000000.0.token")
	f.Add("$JS.ACK.....")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := parseDelivery(s); err == nil && d == (delivery{}) && strings.Count(s, "0") < 3 {
			t.Fatalf("%q parsed to nothing", s)
		}
	})
}

func FuzzCredentials(f *testing.F) {
	k, err := OpenKeyring(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	creds, err := k.ServiceCredentials("auth")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(creds)
	f.Add(k.SessionIssuer().Marshal())
	f.Add([]byte(`{"account":"A","seed":"S"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if i, err := ParseSessionIssuer(data); err == nil {
			if again, err := ParseSessionIssuer(i.Marshal()); err != nil || again.accountID != i.accountID {
				t.Fatalf("does not survive its own form: %v", err)
			}
		} else if api.CodeOf(err) != api.CodeInvalid {
			t.Fatal(err)
		}
		if c, err := parseCredential(data); err == nil {
			if strings.ContainsAny(c.inbox, "*> ") {
				t.Fatalf("inbox %q", c.inbox)
			}
		} else if api.CodeOf(err) != api.CodeInvalid {
			t.Fatal(err)
		}
	})
}

func TestParseDelivery(t *testing.T) {
	want := delivery{stream: 10, consumer: 2, pending: 7}
	for _, reply := range []string{
		"$JS.ACK.SESSIONS.abc.1.10.2.1700000000.7",
		"$JS.ACK.hub.hash.SESSIONS.abc.1.10.2.1700000000.7.token",
	} {
		if got, err := parseDelivery(reply); err != nil || got != want {
			t.Errorf("%s: %+v, %v", reply, got, err)
		}
	}
	for _, reply := range []string{"", "$JS.ACK.a.b", "_INBOX.x", "$JS.ACK.S.c.1.x.2.3.4"} {
		if got, err := parseDelivery(reply); err == nil {
			t.Errorf("%s: %+v", reply, got)
		}
	}
}
