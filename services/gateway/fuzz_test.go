package gateway

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

func FuzzFrame(f *testing.F) {
	f.Add([]byte(`{"op":"subscribe","session":"saaaaaaaaaaaaaaaa","after":1}`))
	f.Add([]byte(`{"op":"message","session":"saaaaaaaaaaaaaaaa","content":"x","attachments":[{"name":"a","data":"eA=="}]}`))
	f.Add([]byte(`{"op":"ping"}{}`))
	f.Add([]byte(`{"op":"subscribe","feed":"tasks","cursor":"1.2"}`))
	f.Add([]byte(`{"op":"unsubscribe","task":"taaaaaaaaaaaaaaaa"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		fr, err := parseFrame(websocket.MessageText, data)
		if err != nil {
			if api.CodeOf(err) != api.CodeInvalid {
				t.Fatalf("code %s of %v", api.CodeOf(err), err)
			}
			return
		}
		if fr.Task != "" || fr.Feed != "" {
			if fr.Session != "" || fr.Op != "subscribe" && fr.Op != "unsubscribe" || fr.Task != "" && !api.ValidID(api.KindTask, fr.Task) || fr.Feed != "" && !isFeed(fr.Feed) {
				t.Fatalf("took %+v", fr)
			}
			return
		}
		if fr.Op != "ping" && !api.ValidID(api.KindSession, fr.Session) {
			t.Fatalf("took the session %q", fr.Session)
		}
	})
}

func FuzzPlaces(f *testing.F) {
	a, b := id("s", "a"), id("s", "b")
	f.Add("1", 1)
	f.Add("1.2", 2)
	f.Add(a+":1,"+b+":2", 2)
	f.Fuzz(func(t *testing.T, text string, n int) {
		keys := []bus.Key{{ID: a}, {ID: b}}[:1+n&1]
		places, err := parsePlaces("/after", text, keys)
		if err != nil {
			if api.CodeOf(err) != api.CodeInvalid {
				t.Fatal(err)
			}
			return
		}
		if len(places) != len(keys) {
			t.Fatalf("%d places for %d sessions", len(places), len(keys))
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/a/b", "/%2e%2e/x", "/%255fyard", "//_yard", "/a%zz", "/a;b/..;c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, rest string) {
		u, err := url.ParseRequestURI(rest)
		if err != nil || u.Host != "" || u.Scheme != "" {
			return
		}
		got, err := cleanPath(u.EscapedPath())
		if err != nil {
			return
		}
		// However a server decodes and cleans what was let through, it is no traversal and not ours.
		for range 4 {
			if strings.HasPrefix(strings.ToLower(strings.TrimLeft(got, "/")), "_yard") || strings.ContainsAny(got, "\\\x00\r\n") {
				t.Fatalf("%q lets through %q", rest, got)
			}
			for seg := range strings.SplitSeq(got, "/") {
				if seg == ".." || seg == "." {
					t.Fatalf("%q lets through %q", rest, got)
				}
			}
			if got, err = url.PathUnescape(got); err != nil {
				return
			}
		}
	})
}

// FuzzFraming: whatever net/http reads as one request with a length and chunks, framing refuses; and where both read, they agree on where the
// request ends.
func FuzzFraming(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), 3)
	f.Add([]byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: x\r\n\r\n"), 7)
	f.Add([]byte("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), 1)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		var whole, parts framing
		ok := whole.follow(data)
		if n := len(data); n > 0 {
			cut = (cut%n + n) % n
			if okParts := parts.follow(data[:cut]) && parts.follow(data[cut:]); okParts != ok {
				t.Fatalf("whole %v, cut at %d %v", ok, cut, okParts)
			}
		}
		br := bufio.NewReader(strings.NewReader(string(data)))
		r, err := http.ReadRequest(br)
		if err != nil || !ok || r.ProtoMajor != 1 || r.ProtoMinor != 1 {
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil || r.Header.Get("Upgrade") != "" {
			return
		}
		rest, _ := io.ReadAll(br)
		var mine framing
		end := len(data) - len(rest)
		if !mine.follow(data[:end]) || mine.state != inHead || mine.first {
			t.Fatalf("net/http ends the request after %d bytes, framing does not: %+v", end, mine)
		}
	})
}

func FuzzAnswerHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &leanConn{br: bufio.NewReaderSize(strings.NewReader(string(data)), leanBuffer)}
		var a answerHead
		if c.readHead(&a) != nil {
			return
		}
		if a.chunked && a.length >= 0 || a.status < 101 || a.status > 599 {
			t.Fatalf("took %+v", a)
		}
		for _, h := range a.fields {
			if h.name == "" || strings.ContainsAny(h.name+h.value, "\r\n\x00") || !forwardResponse(h.name) {
				t.Fatalf("took the header %q: %q", h.name, h.value)
			}
		}
	})
}

func FuzzPreviewHost(f *testing.F) {
	f.Add("3000-saaaaaaaaaaaaaaaa.localhost:8081")
	f.Fuzz(func(t *testing.T, host string) {
		port, sid, err := parsePreviewHost(host)
		if err == nil && (port == "" || !api.ValidID(api.KindSession, sid)) {
			t.Fatalf("%q is %q %q", host, port, sid)
		}
	})
}

// FuzzFast: what front takes for a simple request, net/http reads as the very same.
func FuzzFast(f *testing.F) {
	sid := id("s", "a")
	f.Add([]byte("GET /api/v1/sessions/" + sid + "/agent/status?x=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nAccept: */*\r\n\r\n"))
	f.Add([]byte("GET /api/v1/sessions/" + sid + "/agent/a.b/c HTTP/1.1\r\nhost:x\r\nauthorization:Bearer k\r\nconnection:keep-alive\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		end := bytes.Index(data, headEnd)
		var q fastRequest
		if end < 0 || !parseFast(data[:end+2], &q) {
			return
		}
		head := data[:end+4]
		br := bufio.NewReader(bytes.NewReader(head))
		r, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", head, err)
		}
		if n, _ := io.Copy(io.Discard, br); n != 0 || r.ContentLength != 0 || r.TransferEncoding != nil || r.Method != "GET" || r.Close {
			t.Fatalf("%q has a body or ends the connection", head)
		}
		wantPath := "/api/v1/sessions/" + string(q.id) + "/agent" + string(q.path)
		if r.URL.EscapedPath() != wantPath || r.URL.RawQuery != string(q.query) || r.Host != string(q.host) || r.Header.Get("Authorization") != "Bearer "+string(q.cred) {
			t.Fatalf("%q: %q %q %q, net/http: %v %q", head, wantPath, q.query, q.host, r.URL, r.Host)
		}
		if clean, err := cleanPath(string(q.path)); err != nil || clean != string(q.path) {
			t.Fatalf("takes the path %q: %v", q.path, err)
		}
		var fr framing
		if !fr.follow(head) || fr.state != inHead || fr.first {
			t.Fatalf("framing refuses %q", head)
		}
		for _, line := range q.lines[:q.n] {
			name, _, _ := strings.Cut(string(line), ":")
			if !forwardRequest(http.CanonicalHeaderKey(name)) {
				t.Fatalf("passes on %q", line)
			}
		}
	})
}
