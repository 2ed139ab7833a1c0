package gateway

import (
	"net/http"
	"time"
)

// recorder remembers a response's class and status, and gives each write a deadline, so that a client that does not
// read holds nothing for long.
type recorder struct {
	http.ResponseWriter
	rc      *http.ResponseController
	status  int
	class   string
	caller  *caller // once known
	timeout time.Duration
	set     time.Time // when the write deadline was last set
	// closes says that the request asked for an upgrade: unless it is taken the connection ends, whoever answers and whatever
	// Connection header they set (see framing).
	closes bool
}

func newRecorder(w http.ResponseWriter, timeout time.Duration, now time.Time) *recorder {
	r := &recorder{ResponseWriter: w, rc: http.NewResponseController(w), class: routeUnknown, timeout: timeout, set: now}
	// The deadline of the connection's previous response has passed.
	_ = r.rc.SetWriteDeadline(now.Add(timeout))
	return r
}

// extend moves the write deadline. A quarter of the timeout is not worth a system timer's update.
func (w *recorder) extend() {
	if now := time.Now(); now.Sub(w.set) > w.timeout/4 {
		w.set = now
		_ = w.rc.SetWriteDeadline(now.Add(w.timeout))
	}
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
	if w.closes && status >= 200 {
		h := w.Header()
		h["Connection"] = append([]string{"close"}, h["Connection"]...) // net/http looks at the first
	}
	w.extend()
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.extend()
	return w.ResponseWriter.Write(p)
}

// last gives what net/http still has to write after the handler a deadline.
func (w *recorder) last() {
	if w.status != http.StatusSwitchingProtocols {
		w.extend()
	}
}

// flush writes what is buffered to the connection.
func (w *recorder) flush() error {
	w.extend()
	return w.rc.Flush()
}

// Flush implements http.Flusher, for handlers that do not look behind Unwrap.
func (w *recorder) Flush() { _ = w.flush() }

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
