package rpc

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"agentyard.dev/libs/api"
)

type noteRequest struct {
	Text           string `json:"text"`
	IdempotencyKey string `json:"idempotency_key,omitempty" in:"header:Idempotency-Key"`
}

var (
	readNotes = api.Op[echoRequest, echoResponse]{Service: "test", Verb: "notes", Permission: api.Public, Route: "GET /notes"}
	writeNote = api.Op[noteRequest, echoResponse]{Service: "test", Verb: "note", Permission: api.Public, Route: "POST /notes", Status: 201}
	endNotes  = api.Op[echoRequest, echoResponse]{Service: "test", Verb: "end", Permission: api.Public, Repeatable: true}
	await     = api.Op[echoRequest, echoResponse]{Service: "test", Verb: "await", Permission: api.Public, Route: "GET /await", Waits: true}
	spend     = api.Op[echoRequest, echoResponse]{Service: "test", Verb: "spend", Permission: api.Public, Route: "POST /spend"}
)

// TestSilentInstance: an instance of two that was killed with a request in it left the caller waiting until its deadline.
func TestSilentInstance(t *testing.T) {
	connect := startBus(t)
	c := newClient(connect(), ClientConfig{Name: "asker"})
	c.silence, c.asks, c.repeats = 20*time.Millisecond, 1<<16, make(chan struct{}, 1<<16) // however long the living instance takes to come

	// The dying instance takes questions and answers none.
	var mu sync.Mutex
	lost := map[string]int{} // by what was asked
	dying := connect()
	if _, err := dying.QueueSubscribe(opSubject("test", "*"), "test", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		text, _, _ := strings.Cut(string(m.Data), ",")
		lost[m.Subject+text]++
	}); err != nil {
		t.Fatal(err)
	}
	if err := dying.Flush(); err != nil {
		t.Fatal(err)
	}
	keys := map[string]int{}
	s := newServer(connect(), ServerConfig{Service: "test", Auth: people})
	Handle(s, readNotes, answerEcho)
	Handle(s, endNotes, answerEcho)
	Handle(s, spend, answerEcho)
	Handle(s, writeNote, func(_ context.Context, req noteRequest) (echoResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		keys[req.IdempotencyKey]++
		return echoResponse{Text: req.Text}, nil
	})
	edge := http.NewServeMux()
	NewEdge(c, EdgeConfig{}).Register(edge, writeNote)

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	answers := make(chan error, 4)
	asked := func(f func() error) { go func() { answers <- f() }() }
	asked(func() error { _, err := Call(ctx, c, readNotes, echoRequest{}); return err })
	asked(func() error { _, err := Call(ctx, c, endNotes, echoRequest{}); return err })
	asked(func() error {
		_, err := Call(ctx, c, writeNote, noteRequest{Text: "keyed", IdempotencyKey: "mine"})
		return err
	})
	asked(func() error {
		rec := httptest.NewRecorder()
		req := httptest.NewRequestWithContext(ctx, "POST", "/notes", strings.NewReader(`{"text":"without a key"}`))
		req.Header.Set("Content-Type", "application/json")
		edge.ServeHTTP(rec, req)
		if rec.Code != http.StatusCreated {
			return fmt.Errorf("answered %d: %s", rec.Code, rec.Body)
		}
		return nil
	})
	once, stop := context.WithCancel(ctx)
	defer stop()
	unrepeated := make(chan error, 2)
	for _, op := range []api.Op[echoRequest, echoResponse]{spend, await} {
		go func() { _, err := Call(once, c, op, echoRequest{}); unrepeated <- err }()
	}
	eventually(t, "all six are lost", func() bool { mu.Lock(); defer mu.Unlock(); return len(lost) == 6 })
	dying.Close()
	runServer(t, s)
	for range 4 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	stop()
	for range 2 {
		wantCode(t, <-unrepeated, api.CodeUnavailable)
	}
	mu.Lock()
	defer mu.Unlock()
	for what, n := range lost {
		if (strings.Contains(what, ".spend") || strings.Contains(what, ".await")) && n != 1 {
			t.Errorf("what must be asked once was asked %d times", n)
		}
	}
	if keys["mine"] == 0 || keys[""] > 0 || len(keys) != 2 {
		t.Errorf("the keys were %v, want mine and one that the edge gave", keys)
	}
	eventually(t, "the places of repeated questions are free again", func() bool { return len(c.repeats) == 0 })
}

// TestSlowInstance: the answer of one that is only slow counts, whatever another says meanwhile.
func TestSlowInstance(t *testing.T) {
	s, c, _ := newTest(t, ServerConfig{Concurrency: 1})
	c.silence = 10 * time.Millisecond
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	Handle(s, readNotes, func(ctx context.Context, req echoRequest) (echoResponse, error) {
		once.Do(func() { close(entered) })
		<-release
		return echoResponse{Text: req.Text}, nil
	})
	HandleLong(s, endNotes, longWait, func(_ context.Context, req echoRequest) (echoResponse, error) {
		<-release
		return echoResponse{Text: req.Text}, nil
	})
	runServer(t, s)
	done := make(chan error, 2)
	ask := func(ctx context.Context, op api.Op[echoRequest, echoResponse]) {
		got, err := Call(ctx, c, op, echoRequest{Text: "slow"})
		if err == nil && got.Text != "slow" {
			err = fmt.Errorf("got %+v", got)
		}
		done <- err
	}
	go ask(context.Background(), readNotes)
	<-entered
	eventually(t, "it was asked as often as it may be, and refused", func() bool { return len(c.repeats) == maxAsks-1 })
	long, cancel := context.WithTimeout(context.Background(), 2*longWait)
	defer cancel()
	go ask(long, endNotes)
	eventually(t, "one that waits was asked once more", func() bool { return len(c.waits) == 1 })
	close(release)
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}
