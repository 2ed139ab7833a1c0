package rpc

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"agentyard.dev/libs/api"
)

func TestBreaker(t *testing.T) {
	s, c, _ := newTest(t, ServerConfig{})
	c.open = 50 * time.Millisecond
	var silent atomic.Bool
	var asked atomic.Int32
	var answerWith error
	release := make(chan struct{})
	Handle(s, open, func(context.Context, echoRequest) (echoResponse, error) {
		asked.Add(1)
		if silent.Load() {
			<-release
		}
		return echoResponse{}, answerWith
	})
	runServer(t, s)
	t.Cleanup(func() { close(release) })
	ask := func(timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		_, err := Call(ctx, c, open, echoRequest{})
		return err
	}
	isOpen := func(err error) bool {
		var e *api.Error
		return errors.As(err, &e) && e.Code == api.CodeUnavailable && e.RetryAfter > 0
	}
	t.Run("answers keep it closed, whatever they say", func(t *testing.T) {
		for _, code := range []api.Code{api.CodeInvalid, api.CodeDenied, api.CodeInternal, api.CodeUnavailable, api.CodeExhausted} {
			answerWith = api.Errorf(code, "no")
			for range 2 * breakerFailures {
				wantCode(t, ask(5*time.Second), code)
			}
		}
		answerWith = nil
	})
	t.Run("a caller that goes away keeps it closed", func(t *testing.T) {
		silent.Store(true)
		for range 2 * breakerFailures {
			ctx, cancel := context.WithCancel(context.Background())
			before := asked.Load()
			done := make(chan error, 1)
			go func() { _, err := Call(ctx, c, open, echoRequest{}); done <- err }()
			eventually(t, "asked", func() bool { return asked.Load() > before })
			cancel()
			if err := <-done; isOpen(err) {
				t.Fatal("open")
			}
		}
		silent.Store(false)
		if err := ask(5 * time.Second); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("silence opens it and an answer closes it", func(t *testing.T) {
		silent.Store(true)
		for range breakerFailures {
			wantCode(t, ask(20*time.Millisecond), api.CodeUnavailable, "in time")
		}
		before := asked.Load()
		if err := ask(5 * time.Second); !isOpen(err) {
			t.Fatalf("got %v, want a refusal by the open breaker", err)
		}
		if asked.Load() != before {
			t.Fatal("the open breaker let a call through")
		}
		silent.Store(false)
		eventually(t, "recovers", func() bool { return ask(5*time.Second) == nil })
		if err := ask(5 * time.Second); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRequestIDTravels(t *testing.T) {
	s, c, _ := newTest(t, ServerConfig{})
	Handle(s, open, func(ctx context.Context, _ echoRequest) (echoResponse, error) {
		return echoResponse{Text: RequestID(ctx)}, nil
	})
	runServer(t, s)
	got, err := Call(WithRequestID(context.Background(), "r-1"), c, open, echoRequest{})
	if err != nil || got.Text != "r-1" {
		t.Fatalf("got %v %v", got, err)
	}
	for _, bad := range []string{"", "with space", "line\nbreak", string(make([]byte, 65))} {
		if RequestID(WithRequestID(context.Background(), bad)) != "" {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzReadReply(f *testing.F) {
	f.Add("invalid", []byte(`{"code":"invalid","detail":"x","errors":[{"pointer":"/a"}],"retry_after":5}`))
	f.Add("", []byte(`{}`))
	f.Add("internal", []byte(`{"detail":5}`))
	f.Add("ok", []byte("\xff"))
	f.Fuzz(func(t *testing.T, code string, data []byte) {
		_, err := readReply(nats.Header{headerError: {code}}, data)
		var e *api.Error
		if !errors.As(err, &e) || !known(e.Code) || e.Detail == "" || e.RetryAfter < 0 || e.RetryAfter > maxRetryAfter {
			t.Fatalf("%q %q: %+v", code, data, err)
		}
		if e.Code != api.CodeInternal && string(e.Code) != code {
			t.Fatalf("%q became %q", code, e.Code)
		}
	})
}

func BenchmarkCall(b *testing.B) {
	s, c, connect := newTest(b, ServerConfig{})
	Handle(s, echo, answerEcho)
	runServer(b, s)
	raw := connect()
	if _, err := raw.QueueSubscribe("raw", "q", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		b.Fatal(err)
	}
	if err := raw.Flush(); err != nil {
		b.Fatal(err)
	}
	asker := connect()
	rawRequest := func() error { _, err := asker.Request("raw", []byte(`{"text":"hello"}`), 5*time.Second); return err }
	call := func() error { _, err := Call(as("ada-token"), c, echo, echoRequest{Text: "hello"}); return err }
	for _, bench := range []struct {
		name string
		f    func() error
	}{{"raw", rawRequest}, {"call", call}} {
		b.Run(bench.name+"/serial", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := bench.f(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(bench.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := bench.f(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func TestTraceTravels(t *testing.T) {
	before := otel.GetTextMapPropagator()
	otel.SetTextMapPropagator(propagation.TraceContext{})
	t.Cleanup(func() { otel.SetTextMapPropagator(before) })
	s, c, _ := newTest(t, ServerConfig{})
	Handle(s, open, func(ctx context.Context, _ echoRequest) (echoResponse, error) {
		return echoResponse{Text: trace.SpanContextFromContext(ctx).TraceID().String()}, nil
	})
	runServer(t, s)
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4}, TraceFlags: trace.FlagsSampled})
	got, err := Call(trace.ContextWithSpanContext(context.Background(), span), c, open, echoRequest{})
	if err != nil || got.Text != span.TraceID().String() {
		t.Fatalf("got %q %v, want %s", got.Text, err, span.TraceID())
	}
}
