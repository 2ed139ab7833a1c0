package promises_test

import (
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// span is what a test reads of one.
type span struct {
	trace, id, parent, name, service string
	kind                             uint64
	took                             time.Duration
}

// fields walks the fields of a protobuf message: of length-delimited ones it gives the bytes, of the others the number.
func fields(t *testing.T, msg []byte, f func(number int, data []byte, n uint64)) {
	t.Helper()
	for len(msg) > 0 {
		tag, size := binary.Uvarint(msg)
		if size <= 0 {
			t.Fatal("not protobuf")
		}
		msg = msg[size:]
		var n uint64
		var data []byte
		switch tag & 7 {
		case 0:
			n, size = binary.Uvarint(msg)
		case 1:
			n, size = binary.LittleEndian.Uint64(msg), 8
		case 2:
			length, s := binary.Uvarint(msg)
			data, size = msg[s:s+int(length)], s+int(length)
		case 5:
			n, size = uint64(binary.LittleEndian.Uint32(msg)), 4
		default:
			t.Fatalf("wire type %d", tag&7)
		}
		f(int(tag>>3), data, n)
		msg = msg[size:]
	}
}

// spans reads an OTLP ExportTraceServiceRequest (opentelemetry-proto, trace.proto).
func spans(t *testing.T, body []byte) (all []span) {
	t.Helper()
	fields(t, body, func(_ int, resourceSpans []byte, _ uint64) {
		service := ""
		fields(t, resourceSpans, func(number int, data []byte, _ uint64) {
			switch number {
			case 1: // the resource, of whose attributes one is service.name
				fields(t, data, func(_ int, attribute []byte, _ uint64) {
					key, value := "", ""
					fields(t, attribute, func(number int, data []byte, _ uint64) {
						if number == 1 {
							key = string(data)
						} else {
							fields(t, data, func(_ int, data []byte, _ uint64) { value = string(data) })
						}
					})
					if key == "service.name" {
						service = value
					}
				})
			case 2: // of one scope
				fields(t, data, func(number int, data []byte, _ uint64) {
					if number != 2 {
						return
					}
					s := span{service: service}
					var began, ended uint64
					fields(t, data, func(number int, data []byte, n uint64) {
						switch number {
						case 1:
							s.trace = hex.EncodeToString(data)
						case 2:
							s.id = hex.EncodeToString(data)
						case 4:
							s.parent = hex.EncodeToString(data)
						case 5:
							s.name = string(data)
						case 6:
							s.kind = n
						case 7:
							began = n
						case 8:
							ended = n
						}
					})
					s.took = time.Duration(ended - began) //nolint:gosec // a test's times
					all = append(all, s)
				})
			}
		})
	})
	return all
}

// TestOneTrace: what one request makes the gateway, the sessions service and the session's runner do is one trace.
func TestOneTrace(t *testing.T) {
	var mu sync.Mutex
	var seen []span
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil || !strings.HasSuffix(req.URL.Path, "/v1/traces") {
			t.Errorf("%s: %v", req.URL, err)
			return
		}
		found := spans(t, body)
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, found...)
	}))
	defer collector.Close()
	// Spans are sent in batches, twice a second (an environment variable of OpenTelemetry's SDK, in milliseconds).
	yardtest.EachArrangement(t, func(t *testing.T, y *yardtest.Yard) {
		mu.Lock()
		seen = nil
		mu.Unlock()
		s := y.Client.Session(t, api.CreateSessionRequest{})
		if got := y.Client.Ask(t, s.ID, "sleep 20ms"); got == "" {
			t.Error("no answer")
		}
		const client, server, consumer = 3, 2, 5 // SpanKind
		find := func(name string, kind uint64, parent string) (span, bool) {
			mu.Lock()
			defer mu.Unlock()
			for _, s := range seen {
				if s.name == name && s.kind == kind && (parent == "" || s.parent == parent) {
					return s, true
				}
			}
			return span{}, false
		}
		await := func(name string, kind uint64, parent string) span {
			t.Helper()
			deadline := time.After(30 * time.Second)
			for {
				if s, ok := find(name, kind, parent); ok {
					return s
				}
				select {
				case <-deadline:
					mu.Lock()
					defer mu.Unlock()
					t.Fatalf("no span %s below %q of %+v", name, parent, seen)
				case <-time.After(20 * time.Millisecond):
				}
			}
		}
		asked := await("sessions.send", client, "")
		answered := await("sessions.send", server, asked.id)
		turn := await("runner.turn", consumer, answered.id)
		if asked.trace != answered.trace || asked.trace != turn.trace {
			t.Errorf("three traces: %+v, %+v, %+v", asked, answered, turn)
		}
		if turn.took < 20*time.Millisecond {
			t.Errorf("the agent slept for 20 ms, and its turn took %s", turn.took)
		}
		// A client's own trace goes on here; what it says of recording decides nothing.
		const clients, theirs = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
		status, body, err := y.Client.Do(t.Context(), http.MethodPost, "/api/v1/sessions/"+s.ID+"/messages", map[string]any{"content": "echo traced"},
			"Traceparent", "00-"+clients+"-"+theirs+"-00", "Tracestate", "stranger=1")
		if err != nil || status != http.StatusAccepted {
			t.Fatalf("status %d, %v: %s", status, err, body)
		}
		asked = await("sessions.send", client, theirs)
		answered = await("sessions.send", server, asked.id)
		turn = await("runner.turn", consumer, answered.id)
		for _, s := range []span{asked, answered, turn} {
			if s.trace != clients {
				t.Errorf("%+v is not in the client's trace", s)
			}
		}
		if len(y.Processes()) > 2 && (asked.service != "gateway" || answered.service != "sessions") {
			t.Errorf("asked by %s, answered by %s", asked.service, answered.service)
		}
	}, "AGENTAPI_OTEL_ENDPOINT="+collector.URL, "OTEL_BSP_SCHEDULE_DELAY=500")
}
