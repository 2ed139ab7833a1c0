package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/token"
)

// Operations with the forms of binding that libs/api uses.
type boxRequest struct {
	ID      string            `json:"id" in:"path"`
	IfMatch uint64            `json:"if_match,omitempty" in:"header:If-Match"`
	Wait    string            `json:"wait,omitempty" in:"query"`
	Dry     bool              `json:"dry,omitempty" in:"query"`
	After   api.Duration      `json:"after,omitempty" in:"query"`
	Remote  string            `json:"remote,omitempty" in:"edge"`
	Title   *string           `json:"title,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	TTL     api.Duration      `json:"ttl,omitempty"`
	At      *time.Time        `json:"at,omitempty"`
	Data    []byte            `json:"data,omitempty"`
	Inner   *innerBox         `json:"inner,omitempty"`
	Many    []innerBox        `json:"many,omitempty"`
	Count   int               `json:"count,omitempty"`
	Raw     json.RawMessage   `json:"raw,omitempty"`
}

type innerBox struct {
	URL   string `json:"url"`
	Depth int    `json:"depth,omitempty"`
}

type boxResponse struct {
	ID   string     `json:"id"`
	Got  boxRequest `json:"got"`
	Rev  uint64     `json:"rev"`
	Seen int32      `json:"seen,omitempty"`
}

func (b boxResponse) Revision() uint64 { return b.Rev }

type boxListRequest struct {
	api.List
	State api.State `json:"state,omitempty" in:"query"`
	Label []string  `json:"label,omitempty" in:"query"`
}

type boxNew struct {
	Title string `json:"title"`
}

type boxReplace struct {
	ID  string   `json:"id" in:"path"`
	Box innerBox `json:"box" in:"body"`
}

var (
	boxPatch  = api.Op[boxRequest, boxResponse]{Service: "test", Verb: "patch", Permission: api.Authenticated, Route: "PATCH /boxes/{id}"}
	boxGet    = api.Op[api.IDRef, boxResponse]{Service: "test", Verb: "get", Permission: api.Authenticated, Route: "GET /boxes/{id}"}
	boxDelete = api.Op[api.IDRef, api.None]{Service: "test", Verb: "delete", Permission: api.Authenticated, Route: "DELETE /boxes/{id}", Status: 204}
	boxList   = api.Op[boxListRequest, api.Page[string]]{Service: "test", Verb: "list", Permission: api.Authenticated, Route: "GET /boxes"}
	boxCreate = api.Op[boxNew, boxResponse]{Service: "test", Verb: "create", Permission: api.Authenticated, Route: "POST /boxes", Status: 201}
	boxPut    = api.Op[boxReplace, boxReplace]{Service: "test", Verb: "put", Permission: api.Authenticated, Route: "PUT /boxes/{id}"}
	boxFail   = api.Op[api.IDRef, api.None]{Service: "test", Verb: "fail", Permission: api.Public, Route: "POST /boxes/{id}/fail"}
	boxOps    = []api.AnyOp{boxPatch, boxGet, boxDelete, boxList, boxCreate, boxPut, boxFail}
)

const rev7 = 7

// startEdge serves boxOps over a real bus; fail makes the fail operation's error.
func startEdge(t *testing.T, cfg EdgeConfig, fail func(id string) error) *httptest.Server {
	t.Helper()
	s, c, _ := newTest(t, ServerConfig{})
	var created atomic.Int32
	Handle(s, boxPatch, func(_ context.Context, req boxRequest) (boxResponse, error) {
		if req.IfMatch != 0 && req.IfMatch != rev7 {
			return boxResponse{}, api.Errorf(api.CodeConflict, "the box is at another revision")
		}
		return boxResponse{ID: req.ID, Got: req, Rev: rev7}, nil
	})
	Handle(s, boxGet, func(_ context.Context, req api.IDRef) (boxResponse, error) {
		return boxResponse{ID: req.ID, Rev: rev7}, nil
	})
	Handle(s, boxDelete, func(context.Context, api.IDRef) (api.None, error) { return api.None{}, nil })
	Handle(s, boxList, func(_ context.Context, req boxListRequest) (api.Page[string], error) {
		return api.Page[string]{Items: append([]string{string(req.State), fmt.Sprint(req.Limit), req.Cursor}, req.Label...)}, nil
	})
	Handle(s, boxCreate, func(_ context.Context, req boxNew) (boxResponse, error) {
		return boxResponse{ID: "b/1", Rev: 1, Seen: created.Add(1)}, nil
	})
	Handle(s, boxPut, func(_ context.Context, req boxReplace) (boxReplace, error) { return req, nil })
	Handle(s, boxFail, func(_ context.Context, req api.IDRef) (api.None, error) { return api.None{}, fail(req.ID) })
	runServer(t, s)
	mux := http.NewServeMux()
	NewEdge(c, cfg).Register(mux, boxOps...)
	h := Problems(mux)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // the gateway's part
		ctx := WithRequestID(r.Context(), "req-1")
		if raw, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			ctx = api.WithPrincipal(token.WithRaw(ctx, raw), people[raw])
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	}))
	t.Cleanup(srv.Close)
	return srv
}

// send makes one request as ada; header is "Name: value" lines.
func send(t *testing.T, srv *httptest.Server, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, srv.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer ada-token")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Del(name)
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(data)
}

func TestEdgeBinds(t *testing.T) {
	srv := startEdge(t, EdgeConfig{Fill: func(r *http.Request, req any) {
		if box, ok := req.(*boxRequest); ok {
			box.Remote = "filled"
		}
	}}, nil)
	t.Run("path, query, header and body", func(t *testing.T) {
		resp, body := send(t, srv, "PATCH", "/boxes/a%20b?dry=true&after=90s&wait=",
			`{"title":"x","labels":{"k":"v","a.b/c":""},"ttl":"2h","at":"2026-01-02T03:04:05Z","data":"aGk=","inner":{"url":"u"},"many":[{"url":"1","depth":2}],"count":3,"raw":[1,{}],"remote":"forged"}`,
			`If-Match: "7"`, "Content-Type: application/json; charset=UTF-8")
		var got boxResponse
		if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != 200 {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		at, title := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), "x"
		want := boxRequest{
			ID: "a b", IfMatch: 7, Dry: true, After: api.Duration(90 * time.Second), Remote: "filled", Title: &title,
			Labels: map[string]string{"k": "v", "a.b/c": ""}, TTL: api.Duration(2 * time.Hour), At: &at, Data: []byte("hi"),
			Inner: &innerBox{URL: "u"}, Many: []innerBox{{"1", 2}}, Count: 3, Raw: json.RawMessage(`[1,{}]`),
		}
		a, _ := json.Marshal(got.Got)
		b, _ := json.Marshal(want)
		if !bytes.Equal(a, b) {
			t.Fatalf("got  %s\nwant %s", a, b)
		}
	})
	t.Run("a list", func(t *testing.T) {
		_, body := send(t, srv, "GET", "/boxes?state=running&limit=500&cursor=c%2F1&label=a%3Db&label=c%3Dd", "")
		if body != `{"items":["running","500","c/1","a=b","c=d"]}` {
			t.Fatal(body)
		}
		_, body = send(t, srv, "GET", "/boxes?state=&limit=&cursor=&label=", "")
		if body != `{"items":["","0",""]}` {
			t.Fatal(body)
		}
	})
	t.Run("a whole body", func(t *testing.T) {
		resp, body := send(t, srv, "PUT", "/boxes/x", `{"url":"u","depth":1}`)
		if resp.StatusCode != 200 || body != `{"id":"x","box":{"url":"u","depth":1}}` {
			t.Fatal(body)
		}
	})
	t.Run("an empty body is one without fields", func(t *testing.T) {
		for _, body := range []string{"", "{}"} {
			if resp, got := send(t, srv, "PATCH", "/boxes/x", body); resp.StatusCode != 200 {
				t.Fatal(got)
			}
		}
	})
}

func TestEdgeRefuses(t *testing.T) {
	srv := startEdge(t, EdgeConfig{MaxBody: 1000}, nil)
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	for _, tc := range []struct {
		name, call, body string
		header           []string
		status           int
		pointers         []string
	}{
		{name: "an unknown field", call: "PATCH /boxes/x", body: `{"titel":"x"}`, status: 400, pointers: []string{"/titel"}},
		{name: "a nested unknown field", call: "PATCH /boxes/x", body: `{"many":[{"url":"a"},{"urll":"a"}]}`, status: 400, pointers: []string{"/many/1/urll"}},
		{name: "a name in another case", call: "PATCH /boxes/x", body: `{"Title":"x"}`, status: 400, pointers: []string{"/Title"}},
		{name: "a repeated field", call: "PATCH /boxes/x", body: `{"count":1,"count":2}`, status: 400, pointers: []string{"/count"}},
		{name: "several faults at once", call: "PATCH /boxes/x?dry=maybe", body: `{"a":1,"count":"x","inner":[]}`, status: 400, pointers: []string{"/a", "/count", "/inner", "/dry"}},
		{name: "a path field in the body", call: "PATCH /boxes/x", body: `{"id":"y"}`, status: 400, pointers: []string{"/id"}},
		{name: "a header field in the body", call: "PATCH /boxes/x", body: `{"if_match":7}`, status: 400, pointers: []string{"/if_match"}},
		{name: "a wrong type", call: "PATCH /boxes/x", body: `{"title":5}`, status: 400, pointers: []string{"/title"}},
		{name: "a duration without a unit", call: "PATCH /boxes/x", body: `{"ttl":90}`, status: 400, pointers: []string{"/ttl"}},
		{name: "a time that is none", call: "PATCH /boxes/x", body: `{"at":"yesterday"}`, status: 400, pointers: []string{"/at"}},
		{name: "a number too large", call: "PATCH /boxes/x", body: `{"count":99999999999999999999}`, status: 400, pointers: []string{"/count"}},
		{name: "trailing text", call: "PATCH /boxes/x", body: `{} {}`, status: 400, pointers: []string{""}},
		{name: "broken JSON", call: "PATCH /boxes/x", body: `{"title":`, status: 400, pointers: []string{""}},
		{name: "no object", call: "PATCH /boxes/x", body: `null`, status: 400, pointers: []string{""}},
		{name: "deep nesting", call: "PATCH /boxes/x", body: `{"raw":` + deep + `}`, status: 400, pointers: []string{""}},
		{name: "a body that is not UTF-8", call: "PATCH /boxes/x", body: "{\"title\":\"\xff\"}", status: 400, pointers: []string{""}},
		{name: "a missing whole body", call: "PUT /boxes/x", status: 400, pointers: []string{""}},
		{name: "an unknown query parameter", call: "GET /boxes?stat=running", status: 400, pointers: []string{"/stat"}},
		{name: "a repeated query parameter", call: "GET /boxes?cursor=a&cursor=b", status: 400, pointers: []string{"/cursor"}},
		{name: "a limit of zero", call: "GET /boxes?limit=0", status: 400, pointers: []string{"/limit"}},
		{name: "a limit too high", call: "GET /boxes?limit=501", status: 400, pointers: []string{"/limit"}},
		{name: "a limit that is no number", call: "GET /boxes?limit=x", status: 400, pointers: []string{"/limit"}},
		{name: "a malformed query", call: "GET /boxes?state=%zz", status: 400},
		{name: "a control character in the path", call: "GET /boxes/a%0Ab", status: 400, pointers: []string{"/id"}},
		{name: "a path that is not UTF-8", call: "GET /boxes/%ff", status: 400, pointers: []string{"/id"}},
		{name: "a control character in the query", call: "GET /boxes?cursor=%00", status: 400, pointers: []string{"/cursor"}},
		{name: "a large body", call: "PATCH /boxes/x", body: `{"title":"` + strings.Repeat("x", 1000) + `"}`, status: 413, pointers: []string{""}},
		{name: "a form", call: "PATCH /boxes/x", body: `title=x`, header: []string{"Content-Type: application/x-www-form-urlencoded"}, status: 415, pointers: []string{""}},
		{name: "a body of no type", call: "PATCH /boxes/x", body: `{}`, header: []string{"Content-Type: "}, status: 415, pointers: []string{""}},
		{name: "another charset", call: "PATCH /boxes/x", body: `{}`, header: []string{"Content-Type: application/json; charset=utf-16"}, status: 415, pointers: []string{""}},
		{name: "a compressed body", call: "PATCH /boxes/x", body: `{}`, header: []string{"Content-Encoding: gzip"}, status: 415, pointers: []string{""}},
		{name: "a weak If-Match", call: "PATCH /boxes/x", header: []string{`If-Match: W/"7"`}, status: 400, pointers: []string{"/if_match"}},
		{name: "an If-Match without quotes", call: "PATCH /boxes/x", header: []string{`If-Match: 7`}, status: 400, pointers: []string{"/if_match"}},
		{name: "an If-Match of another revision", call: "PATCH /boxes/x", header: []string{`If-Match: "6"`}, status: 412},
		{name: "an If-Match that is not ours", call: "PATCH /boxes/x", header: []string{`If-Match: "abc"`}, status: 412},
		{name: "an If-Match of revision zero", call: "PATCH /boxes/x", header: []string{`If-Match: "0"`}, status: 412},
		{name: "a bad Idempotency-Key", call: "POST /boxes", body: `{"title":"x"}`, header: []string{"Idempotency-Key: " + strings.Repeat("k", 256)}, status: 400, pointers: []string{"/idempotency_key"}},
		{name: "no credential", call: "GET /boxes", header: []string{"Authorization: "}, status: 401},
		{name: "no such path", call: "GET /nothing", status: 404},
		{name: "no such method", call: "POST /boxes/x", status: 405},
	} {
		t.Run(tc.name, func(t *testing.T) {
			method, path, _ := strings.Cut(tc.call, " ")
			resp, body := send(t, srv, method, path, tc.body, tc.header...)
			var p problem
			if err := json.Unmarshal([]byte(body), &p); err != nil {
				t.Fatalf("%v: %s", err, body)
			}
			var pointers []string
			for _, e := range p.Errors {
				pointers = append(pointers, e.Pointer)
			}
			if resp.StatusCode != tc.status || p.Status != tc.status || !slices.Equal(pointers, tc.pointers) {
				t.Errorf("got %d %q, want %d %q: %s", resp.StatusCode, pointers, tc.status, tc.pointers, body)
			}
			if resp.Header.Get("Content-Type") != "application/problem+json" || p.Type != ProblemType+string(p.Code) || p.Title == "" || p.Detail == "" || p.RequestID != "req-1" {
				t.Errorf("incomplete problem: %s", body)
			}
		})
	}
	t.Run("a large body of unknown length", func(t *testing.T) {
		req, _ := http.NewRequest("PATCH", srv.URL+"/boxes/x", io.LimitReader(neverEnds{}, 1<<20))
		req.Header.Set("Content-Type", "application/json")
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 413 {
			t.Fatal(resp.Status)
		}
	})
	t.Run("an If-Match that matches, or any", func(t *testing.T) {
		for _, tag := range []string{`"7"`, `*`} {
			if resp, body := send(t, srv, "PATCH", "/boxes/x", "", "If-Match: "+tag); resp.StatusCode != 200 {
				t.Error(tag, body)
			}
		}
	})
}

type neverEnds struct{}

func (neverEnds) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestEdgeAnswers(t *testing.T) {
	srv := startEdge(t, EdgeConfig{}, func(id string) error {
		switch id {
		case "busy":
			return &api.Error{Code: api.CodeExhausted, Detail: "too many", RetryAfter: 1500 * time.Millisecond}
		case "conflict":
			return api.Errorf(api.CodeConflict, "it is stopped")
		}
		return fmt.Errorf("secret of %s", id)
	})
	t.Run("an entity tag, and not modified", func(t *testing.T) {
		resp, _ := send(t, srv, "GET", "/boxes/x", "")
		if resp.Header.Get("ETag") != `"7"` || resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Fatal(resp.Header)
		}
		for tag, status := range map[string]int{`"7"`: 304, `W/"7"`: 304, `*`: 304, `"1", "7"`: 304, `"8"`: 200, `7`: 200} {
			resp, body := send(t, srv, "GET", "/boxes/x", "", "If-None-Match: "+tag)
			if resp.StatusCode != status || (status == 304) != (body == "") || resp.Header.Get("ETag") != `"7"` {
				t.Errorf("%s: %d %s", tag, resp.StatusCode, body)
			}
		}
	})
	t.Run("created, with its place", func(t *testing.T) {
		resp, _ := send(t, srv, "POST", "/boxes", `{"title":"x"}`)
		if resp.StatusCode != 201 || resp.Header.Get("Location") != "/boxes/b%2F1" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Fatal(resp.Status, resp.Header)
		}
	})
	t.Run("no content", func(t *testing.T) {
		resp, body := send(t, srv, "DELETE", "/boxes/x", "")
		if resp.StatusCode != 204 || body != "" || resp.Header.Get("Content-Type") != "" {
			t.Fatal(resp.Status, resp.Header, body)
		}
	})
	t.Run("HEAD", func(t *testing.T) {
		resp, body := send(t, srv, "HEAD", "/boxes/x", "")
		if resp.StatusCode != 200 || body != "" || resp.Header.Get("ETag") == "" {
			t.Fatal(resp.Status, body)
		}
	})
	t.Run("when to try again", func(t *testing.T) {
		resp, _ := send(t, srv, "POST", "/boxes/busy/fail", "")
		if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "2" {
			t.Fatal(resp.Status, resp.Header)
		}
	})
	t.Run("a conflict without If-Match is 409", func(t *testing.T) {
		if resp, body := send(t, srv, "POST", "/boxes/conflict/fail", ""); resp.StatusCode != 409 {
			t.Fatal(resp.Status, body)
		}
	})
	t.Run("nothing internal", func(t *testing.T) {
		resp, body := send(t, srv, "POST", "/boxes/y/fail", "")
		if resp.StatusCode != 500 || strings.Contains(body, "secret") {
			t.Fatal(resp.Status, body)
		}
	})
	t.Run("a missing method says which there are", func(t *testing.T) {
		if resp, _ := send(t, srv, "POST", "/boxes/x", ""); !strings.Contains(resp.Header.Get("Allow"), "PATCH") {
			t.Fatal(resp.Header)
		}
	})
}

// kept is an Idempotency in memory.
type kept struct {
	mu   sync.Mutex
	keys map[IdempotencyKey]Answer
}

func (k *kept) Do(ctx context.Context, key IdempotencyKey, do func(context.Context) (Answer, error)) (Answer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for have, answer := range k.keys {
		if have.ID == key.ID && have.Tenant == key.Tenant {
			if have.Request != key.Request {
				return Answer{}, api.Errorf(api.CodeConflict, "the key was used for another request")
			}
			answer.Replayed = true
			return answer, nil
		}
	}
	answer, err := do(ctx)
	if err == nil {
		k.keys[key] = answer
	}
	return answer, err
}

func TestEdgeIdempotency(t *testing.T) {
	srv := startEdge(t, EdgeConfig{Idempotency: &kept{keys: map[IdempotencyKey]Answer{}}}, nil)
	key := "Idempotency-Key: k 1"
	first, body := send(t, srv, "POST", "/boxes", `{"title":"x"}`, key)
	again, same := send(t, srv, "POST", "/boxes", `{"title":"x"}`, key)
	if body != same || again.StatusCode != 201 || again.Header.Get("Location") != first.Header.Get("Location") ||
		again.Header.Get("ETag") != first.Header.Get("ETag") || again.Header.Get("Idempotent-Replayed") != "true" || first.Header.Get("Idempotent-Replayed") != "" {
		t.Fatalf("first %v %s, again %v %s", first.Header, body, again.Header, same)
	}
	if _, other := send(t, srv, "POST", "/boxes", `{"title":"x"}`, "Idempotency-Key: k 2"); other == body {
		t.Error("another key got the same answer")
	}
	if _, other := send(t, srv, "POST", "/boxes", `{"title":"x"}`, key, "Authorization: Bearer chief-token"); other == body {
		t.Error("another principal got the same answer")
	}
	if resp, _ := send(t, srv, "POST", "/boxes", `{"title":"y"}`, key); resp.StatusCode != 409 {
		t.Error("another request with the key:", resp.Status)
	}
}

func TestRegisterRefusesWhatCannotBeBound(t *testing.T) {
	type wrongPath struct {
		Name string `json:"name" in:"path"`
	}
	type wrongPlace struct {
		Name string `json:"name" in:"cookie"`
	}
	type wrongType struct {
		Name map[string]string `json:"name" in:"query"`
	}
	for name, op := range map[string]api.AnyOp{
		"path":  api.Op[wrongPath, api.None]{Service: "s", Verb: "v", Route: "GET /x/{id}"},
		"place": api.Op[wrongPlace, api.None]{Service: "s", Verb: "v", Route: "GET /x"},
		"type":  api.Op[wrongType, api.None]{Service: "s", Verb: "v", Route: "GET /x"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Fatal("no panic")
				}
			}()
			newEdge(nil, EdgeConfig{}).Register(http.NewServeMux(), op)
		})
	}
	newEdge(nil, EdgeConfig{}).Register(http.NewServeMux(), api.Operations()...)
}

// FuzzEdge sends requests of any form: the answer is success or a problem that blames the request.
func FuzzEdge(f *testing.F) {
	f.Add("PATCH", "/boxes/x", "dry=true", `{"title":"x"}`, `"7"`)
	f.Add("PUT", "/boxes/%2e%2e", "", `{"url":"u"}`, `W/"7"`)
	f.Add("GET", "/boxes", "limit=5&label=a&label=b&cursor=%00", "", "*")
	f.Add("POST", "/boxes", ";", `{"a":{"a":[`, `"`)
	mux := http.NewServeMux()
	ask := func(_ context.Context, a *ask) (answer, error) {
		if !json.Valid(a.data) {
			return answer{}, fmt.Errorf("request is not JSON: %q", a.data)
		}
		return answer{data: []byte(`{"id":"x"}`), rev: 3}, nil
	}
	newEdge(ask, EdgeConfig{MaxBody: 1 << 16}).Register(mux, append(boxOps, api.Operations()...)...)
	h := Problems(mux)
	f.Fuzz(func(t *testing.T, method, path, query, body, match string) {
		u, err := url.ParseRequestURI("/" + strings.TrimPrefix(path, "/"))
		if err != nil || !validMethod(method) {
			return
		}
		u.RawQuery = query
		r := &http.Request{Method: method, URL: u, Host: "x", Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("If-Match", match)
		r.Header.Set("If-None-Match", match)
		r.Header.Set("Idempotency-Key", match)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if w.Code >= 400 {
			var p problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || !known(p.Code) || p.Status != w.Code || p.Detail == "" {
				t.Fatalf("%d %s: %v", w.Code, w.Body, err)
			}
		}
	})
}

func validMethod(m string) bool {
	return slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}, m)
}

func FuzzIfMatch(f *testing.F) {
	for _, s := range []string{`"1"`, `*`, `W/"1"`, `"01"`, `""`, `"1","2"`, `"`, `"18446744073709551616"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		rev, err := parseIfMatch([]string{s})
		switch trimmed := strings.TrimSpace(s); {
		case err == nil && rev == 0 && trimmed != "*":
			t.Fatalf("%q is no condition", s)
		case err == nil && rev != 0 && trimmed != etag(rev):
			t.Fatalf("%q is revision %d", s, rev)
		case err != nil && api.CodeOf(err) != api.CodeInvalid && api.CodeOf(err) != api.CodeConflict:
			t.Fatal(err)
		}
	})
}
