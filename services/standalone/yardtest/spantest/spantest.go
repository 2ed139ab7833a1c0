// Package spantest takes the spans that a yard sends, for tests of its traces.
package spantest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Kinds of spans that services make.
const (
	Server   = tracepb.Span_SPAN_KIND_SERVER
	Client   = tracepb.Span_SPAN_KIND_CLIENT
	Consumer = tracepb.Span_SPAN_KIND_CONSUMER
)

// Span is what a test reads of one.
type Span struct {
	Trace, ID, Parent, Name string
	Service                 string // of its resource
	Attributes              map[string]string
	Kind                    tracepb.Span_SpanKind
	Took                    time.Duration
	From                    netip.Addr // who sent it
}

const (
	// kept bounds what a Collector holds; of more the oldest are forgotten.
	kept = 1 << 14
	// headerWithin bounds how long a request may take to come, also on a machine that is busy with other tests.
	headerWithin = time.Minute
)

// Collector takes spans as an OpenTelemetry collector does, by OTLP over HTTP, and keeps the newest of them.
type Collector struct {
	URL  string // what -otel.endpoint wants
	Port int

	server *http.Server
	done   chan struct{}

	mu  sync.Mutex
	all []Span
	err error // of the first request that was none
}

// Listen takes spans on a TCP address until Close.
func Listen(address string) (*Collector, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for spans: %w", err)
	}
	s := &Collector{URL: "http://" + listener.Addr().String(), Port: listener.Addr().(*net.TCPAddr).Port, done: make(chan struct{})}
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: headerWithin}
	go func() {
		defer close(s.done)
		_ = s.server.Serve(listener)
	}()
	return s, nil
}

// Close ends it.
func (s *Collector) Close() {
	_ = s.server.Close()
	<-s.done
}

// ServeHTTP implements http.Handler.
func (s *Collector) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	var found []Span
	body, err := io.ReadAll(io.LimitReader(req.Body, 16<<20))
	switch from, ferr := netip.ParseAddrPort(req.RemoteAddr); {
	case err != nil: // who sends it was killed
		return
	case ferr != nil || !strings.HasSuffix(req.URL.Path, "/v1/traces"):
		err = errors.Join(ferr, errors.New("it is no place for traces"))
	default:
		found, err = read(body)
		for i := range found {
			found[i].From = from.Addr()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.err == nil {
		s.err = fmt.Errorf("%s: %w", req.URL, err)
	}
	s.all = append(s.all, found...)
	s.all = s.all[max(0, len(s.all)-kept):]
}

// Await waits for a span, for at most d.
func (s *Collector) Await(t testing.TB, d time.Duration, what string, ok func(Span) bool) Span {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(d); ; {
		found, any, err := s.find(ok)
		switch {
		case err != nil:
			t.Fatalf("spans: %v", err)
		case any:
			return found
		}
		select {
		case <-tick.C:
		case <-deadline:
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Fatalf("no span %s among %d, the last of them %+v", what, len(s.all), s.all[max(0, len(s.all)-50):])
		}
	}
}

func (s *Collector) find(ok func(Span) bool) (Span, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, span := range s.all {
		if ok(span) {
			return span, true, s.err
		}
	}
	return Span{}, false, s.err
}

// Turn waits for the spans of a message from the gateway to the runner, of the trace and the session's message that first knows: what the gateway asked, what the sessions service
// answered, and the turn of the session's runner.
func (s *Collector) Turn(t testing.TB, d time.Duration, first func(Span) bool) (asked, answered, turn Span) {
	t.Helper()
	below := func(name string, kind tracepb.Span_SpanKind, parent string) Span {
		return s.Await(t, d, fmt.Sprintf("%s of kind %s below %s", name, kind, parent), func(s Span) bool {
			return s.Name == name && s.Kind == kind && s.Parent == parent
		})
	}
	const send = "sessions.send"
	asked = s.Await(t, d, send+" of the gateway", func(s Span) bool { return s.Name == send && s.Kind == Client && first(s) })
	answered = below(send, Server, asked.ID)
	turn = below("runner.turn", Consumer, answered.ID)
	for _, s := range []Span{answered, turn} {
		if s.Trace != asked.Trace {
			t.Errorf("%+v is not in the trace of %+v", s, asked)
		}
	}
	return asked, answered, turn
}

// read reads what an exporter sends: an ExportTraceServiceRequest is TracesData by another name.
func read(body []byte) (all []Span, err error) {
	var req tracepb.TracesData
	if err := proto.Unmarshal(body, &req); err != nil {
		return nil, err
	}
	for _, of := range req.GetResourceSpans() {
		service := texts(of.GetResource().GetAttributes())["service.name"]
		for _, scope := range of.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				all = append(all, Span{
					Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()), Name: s.GetName(),
					Service: service, Attributes: texts(s.GetAttributes()), Kind: s.GetKind(), Took: time.Duration(s.GetEndTimeUnixNano() - s.GetStartTimeUnixNano()), //nolint:gosec // a test's times
				})
			}
		}
	}
	return all, nil
}

// texts are the attributes that are texts.
func texts(attributes []*commonpb.KeyValue) map[string]string {
	all := make(map[string]string, len(attributes))
	for _, a := range attributes {
		all[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return all
}
