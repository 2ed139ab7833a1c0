package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"agentyard.dev/libs/api"
)

// A request without a body, which is most of what is asked of a session, goes to its runner by a round trip of our own:
// written and read by the request's goroutine on a kept connection, without the two goroutines and the channel hops that
// net/http's Transport spends on each. Whatever is not plain HTTP/1.1 is an error, never guessed at.

const (
	maxResponseHead = 64 << 10
	leanBuffer      = 8 << 10
	retries         = 2 // of a request on a kept connection that the runner had closed meanwhile
)

// errStale says that a kept connection was closed before a byte of the answer: the request may be sent again.
var errStale = errors.New("connection was closed")

var longAgo = time.Unix(1, 0)

// serve forwards a GET or HEAD without a body.
func (p *leanPool) serve(w *recorder, r *http.Request, t *target) error {
	for try := 0; ; try++ {
		c, err := p.get(r.Context(), try == retries)
		if err != nil {
			return upstreamError(r, err)
		}
		err = p.exchange(w, r, t, c)
		if errors.Is(err, errStale) && try < retries && r.Context().Err() == nil {
			continue
		}
		if err != nil {
			return upstreamError(r, err)
		}
		return nil
	}
}

// exchange does one round trip on c, which it returns to the pool or closes.
func (p *leanPool) exchange(w *recorder, r *http.Request, t *target, c *leanConn) error {
	used := !c.since.IsZero()
	reuse := false
	c.by = time.Time{}
	_ = c.SetDeadline(time.Now().Add(answerTimeout)) // before AfterFunc, which may bring it forward
	stop := context.AfterFunc(r.Context(), func() { _ = c.SetDeadline(longAgo) })
	defer func() {
		if stop() && reuse {
			p.put(c, time.Now())
		} else {
			_ = c.Close()
		}
	}()
	c.writeHead(r, t)
	if _, err := c.Write(c.out); err != nil {
		return stale(used, err)
	}
	if _, err := c.br.Peek(1); err != nil {
		return stale(used, err)
	}
	var buf [24]field
	a := answerHead{fields: buf[:0]}
	if err := c.readHead(&a); err != nil {
		return err
	}
	if a.status == http.StatusSwitchingProtocols {
		return errors.New("the session switched protocols unasked")
	}
	a.apply(w.Header(), t)
	noBody := r.Method == http.MethodHead || a.status == http.StatusNoContent || a.status == http.StatusNotModified
	switch {
	case noBody:
		w.WriteHeader(a.status)
		reuse = a.keep
	case a.chunked || a.length < 0:
		reuse = c.stream(w, r, t, &a)
	default:
		reuse = c.copy(r.Context(), w, &a)
	}
	return nil
}

// stale turns the failure of a kept connection into errStale.
func stale(used bool, err error) error {
	if used && !isTimeout(err) {
		return errStale
	}
	return err
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// writeHead puts the request's head into c.out.
func (c *leanConn) writeHead(r *http.Request, t *target) {
	b := append(c.out[:0], r.Method...)
	b = append(b, ' ')
	b = append(b, t.path...)
	if t.query != "" {
		b = append(append(b, '?'), t.query...)
	}
	b = append(b, " HTTP/1.1\r\nHost: "+upstreamHost+"\r\n"...)
	for name, values := range r.Header {
		if !forwardRequest(name) {
			continue
		}
		for _, v := range values {
			b = appendField(b, name, v)
		}
	}
	b = appendField(b, api.RunnerKeyHeader, t.to.key)
	b = appendField(b, "X-Forwarded-For", t.ip)
	b = appendField(b, "X-Forwarded-Host", r.Host)
	b = appendField(b, "X-Forwarded-Proto", t.proto)
	c.out = append(b, "\r\n"...)
}

func appendField(b []byte, name, value string) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}

type field struct{ name, value string }

// answerHead is the head of an answer.
type answerHead struct {
	status  int
	fields  []field
	length  int64 // -1: not said
	chunked bool
	keep    bool // the connection may be used again
}

// readHead reads one final answer's head; informational ones are passed over.
func (c *leanConn) readHead(a *answerHead) error {
	left := maxResponseHead
	next := func() (string, error) {
		line, err := c.line(&left)
		return string(line), err
	}
	// Mostly the whole head is there: then one string holds it.
	data, _ := c.br.Peek(c.br.Buffered())
	if end := bytes.Index(data, headEnd); end >= 0 {
		whole := string(data[:end+len(headEnd)])
		read := next
		next = func() (string, error) {
			if whole == "" {
				return read() // another head follows an informational one
			}
			var line string
			line, whole, _ = strings.Cut(whole, "\n")
			_, _ = c.br.Discard(len(line) + 1)
			return strings.TrimSuffix(line, "\r"), nil
		}
	}
	for {
		line, err := next()
		if err != nil {
			return err
		}
		minor, status, err := parseStatus(line)
		if err != nil {
			return err
		}
		*a = answerHead{status: status, fields: a.fields[:0], length: -1, keep: minor == '1'}
		for {
			if line, err = next(); err != nil {
				return err
			}
			if len(line) == 0 {
				break
			}
			if err := a.add(line); err != nil {
				return err
			}
		}
		if a.chunked && a.length >= 0 {
			return errors.New("the answer has both a length and chunks")
		}
		if status >= 200 || status == http.StatusSwitchingProtocols {
			return nil
		}
	}
}

// line reads one line without its end. It is valid until the next read.
func (c *leanConn) line(left *int) ([]byte, error) {
	line, err := c.br.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, errors.New("a line of the answer's head is too long")
	}
	if err != nil {
		return nil, fmt.Errorf("read the answer's head: %w", noEOF(err))
	}
	if *left -= len(line); *left < 0 {
		return nil, errors.New("the answer's head is too long")
	}
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// parseStatus reads "HTTP/1.1 200 OK".
func parseStatus(line string) (minor byte, status int, err error) {
	const form = "HTTP/1."
	if len(line) < len(form)+5 || line[:len(form)] != form || line[8] != ' ' || (len(line) > 12 && line[12] != ' ') {
		return 0, 0, errors.New("the answer is not HTTP/1")
	}
	minor = line[7]
	for _, d := range []byte(line[9:12]) {
		if d < '0' || d > '9' {
			return 0, 0, errors.New("the answer's status is not a number")
		}
		status = status*10 + int(d-'0')
	}
	if minor != '0' && minor != '1' || status < 100 || status > 599 {
		return 0, 0, errors.New("the answer's status is out of range")
	}
	return minor, status, nil
}

// add takes one header line.
func (a *answerHead) add(line string) error {
	colon := strings.IndexByte(line, ':')
	if colon <= 0 {
		return errors.New("the answer has a header without a name")
	}
	for i := range colon {
		if !tokenChar[line[i]] {
			return errors.New("the answer has a bad header name")
		}
	}
	value := strings.Trim(line[colon+1:], " \t")
	for i := range len(value) {
		if c := value[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return errors.New("the answer has a bad header value")
		}
	}
	name, ok := commonNames[line[:colon]]
	if !ok {
		name = textproto.CanonicalMIMEHeaderKey(line[:colon])
	}
	switch name {
	case "Content-Length":
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 0 || value[0] == '+' || (a.length >= 0 && a.length != n) {
			return errors.New("the answer has a bad Content-Length")
		}
		if a.length >= 0 {
			return nil
		}
		a.length = n
	case "Transfer-Encoding":
		if a.chunked || !strings.EqualFold(value, "chunked") {
			return errors.New("the answer has an unknown Transfer-Encoding")
		}
		a.chunked = true
		return nil
	case "Connection":
		if headerHas([]string{value}, "close") {
			a.keep = false
		}
		return nil
	case "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Te", "Trailer", "Upgrade":
		return nil
	}
	if forwardResponse(name) {
		a.fields = append(a.fields, field{name, value})
	}
	return nil
}

// apply moves the head into the response's header h, where it replaces what the gateway says of itself.
func (a *answerHead) apply(h http.Header, t *target) {
	forOthers(h)
	values := make([]string, len(a.fields)) // one allocation for all
	for i, f := range a.fields {
		values[i] = f.value
		own := values[i : i+1 : i+1]
		if old, ok := h[f.name]; ok && a.has(i, f.name) {
			h[f.name] = append(old, f.value)
		} else {
			h[f.name] = own
		}
	}
	t.fix(h)
	t.isolate(h)
}

// has reports whether one of the first n fields has this name.
func (a *answerHead) has(n int, name string) bool {
	for _, f := range a.fields[:n] {
		if f.name == name {
			return true
		}
	}
	return false
}

// copy sends a body of known length. It reports whether the connection is at the end of the answer and may be kept.
func (c *leanConn) copy(ctx context.Context, w *recorder, a *answerHead) bool {
	w.WriteHeader(a.status)
	for left := a.length; left > 0; {
		if c.br.Buffered() == 0 {
			_ = c.SetReadDeadline(time.Now().Add(answerTimeout))
			if _, err := c.br.Peek(1); err != nil || ctx.Err() != nil {
				panic(http.ErrAbortHandler) // the client must not take what it has for all
			}
		}
		part, _ := c.br.Peek(int(min(left, int64(c.br.Buffered()))))
		if _, err := w.Write(part); err != nil {
			return false
		}
		_, _ = c.br.Discard(len(part))
		left -= int64(len(part))
	}
	return a.keep
}

// stream sends a body of unknown length, each part as it comes, for as long as the caller keeps its access.
func (c *leanConn) stream(w *recorder, r *http.Request, t *target, a *answerHead) bool {
	ctx, done, err := t.long(r.Context())
	if err != nil {
		fail(w, r, err)
		return false
	}
	defer done()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(longAgo) })
	defer stop()
	_ = c.SetDeadline(time.Time{})
	if ctx.Err() != nil {
		_ = c.SetDeadline(longAgo) // it ended before the deadline was lifted
	}
	w.WriteHeader(a.status)
	_ = w.flush()
	var body io.Reader = c.br
	if a.chunked {
		body = httputil.NewChunkedReader(c.br)
	}
	buf := bufferPool.Get().(*[]byte)
	defer bufferPool.Put(buf)
	for {
		n, err := body.Read(*buf)
		if n > 0 {
			if _, werr := w.Write((*buf)[:n]); werr != nil {
				return false
			}
			if c.br.Buffered() == 0 && w.flush() != nil {
				return false
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return a.chunked && a.keep && c.trailer() == nil && ctx.Err() == nil
		default:
			panic(http.ErrAbortHandler)
		}
	}
}

// trailer reads to the end of a chunked body; trailers are not forwarded.
func (c *leanConn) trailer() error {
	left := maxResponseHead
	_ = c.SetDeadline(time.Now().Add(time.Second))
	for {
		line, err := c.line(&left)
		if err != nil || len(line) == 0 {
			return err
		}
	}
}

// commonNames saves an allocation for each header that nearly every answer has.
var commonNames = func() map[string]string {
	m := map[string]string{}
	for _, n := range []string{
		"Content-Type", "Content-Length", "Date", "Cache-Control", "Connection", "Transfer-Encoding", "Vary", "Etag", "Last-Modified", "Server",
		"X-Content-Type-Options", "Access-Control-Allow-Origin",
	} {
		m[n], m[strings.ToLower(n)] = n, n
	}
	return m
}()

// tokenChar says which bytes a header's name may have (RFC 9110 §5.6.2).
var tokenChar = func() (is [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		is[c] = true
	}
	return is
}()
