// Package spantest takes the spans that a yard sends, for tests of its traces.
package spantest

import (
	"encoding/binary"
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
)

// Kinds of spans that services make (OTLP's SpanKind).
const (
	Server   = 2
	Client   = 3
	Consumer = 5
)

// Span is what a test reads of one.
type Span struct {
	Trace, ID, Parent, Name string
	Service                 string // of its resource
	Attributes              map[string]string
	Kind                    uint64
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
	below := func(name string, kind uint64, parent string) Span {
		return s.Await(t, d, fmt.Sprintf("%s of kind %d below %s", name, kind, parent), func(s Span) bool {
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

var errProtobuf = errors.New("not protobuf")

// fields walks the fields of a protobuf message: of length-delimited ones it gives the bytes, of the others the number.
func fields(msg []byte, f func(number int, data []byte, n uint64) error) error {
	for len(msg) > 0 {
		tag, size := binary.Uvarint(msg)
		if size <= 0 {
			return errProtobuf
		}
		msg = msg[size:]
		var n uint64
		var data []byte
		switch tag & 7 {
		case 0:
			n, size = binary.Uvarint(msg)
		case 1:
			if size = 8; len(msg) >= size {
				n = binary.LittleEndian.Uint64(msg)
			}
		case 2:
			length, s := binary.Uvarint(msg)
			if s <= 0 || length > uint64(len(msg)-s) {
				return errProtobuf
			}
			size = s + int(length) //nolint:gosec // no more than there is
			data = msg[s:size]
		case 5:
			if size = 4; len(msg) >= size {
				n = uint64(binary.LittleEndian.Uint32(msg))
			}
		default:
			return errProtobuf
		}
		if size <= 0 || size > len(msg) {
			return errProtobuf
		}
		if err := f(int(tag>>3), data, n); err != nil { //nolint:gosec // of a schema that is known
			return err
		}
		msg = msg[size:]
	}
	return nil
}

// attribute reads a KeyValue whose value is a text, into all.
func attribute(msg []byte, all map[string]string) error {
	key, value := "", ""
	err := fields(msg, func(number int, data []byte, _ uint64) error {
		if number == 1 {
			key = string(data)
			return nil
		}
		return fields(data, func(number int, data []byte, _ uint64) error {
			if number == 1 {
				value = string(data)
			}
			return nil
		})
	})
	all[key] = value
	return err
}

// read reads an OTLP ExportTraceServiceRequest (opentelemetry-proto, trace.proto).
func read(body []byte) (all []Span, err error) {
	err = fields(body, func(_ int, resourceSpans []byte, _ uint64) error {
		resource := map[string]string{}
		return fields(resourceSpans, func(number int, data []byte, _ uint64) error {
			switch number {
			case 1:
				return fields(data, func(number int, data []byte, _ uint64) error {
					if number != 1 {
						return nil
					}
					return attribute(data, resource)
				})
			case 2: // of one scope
				return fields(data, func(number int, data []byte, _ uint64) error {
					if number != 2 {
						return nil
					}
					s, err := readSpan(data)
					s.Service = resource["service.name"]
					all = append(all, s)
					return err
				})
			}
			return nil
		})
	})
	return all, err
}

func readSpan(msg []byte) (Span, error) {
	s := Span{Attributes: map[string]string{}}
	var began, ended uint64
	err := fields(msg, func(number int, data []byte, n uint64) error {
		switch number {
		case 1:
			s.Trace = hex.EncodeToString(data)
		case 2:
			s.ID = hex.EncodeToString(data)
		case 4:
			s.Parent = hex.EncodeToString(data)
		case 5:
			s.Name = string(data)
		case 6:
			s.Kind = n
		case 7:
			began = n
		case 8:
			ended = n
		case 9:
			return attribute(data, s.Attributes)
		}
		return nil
	})
	s.Took = time.Duration(ended - began) //nolint:gosec // a test's times
	return s, err
}
