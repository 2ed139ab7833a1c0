package gateway

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/limit"
)

// outcome is what became of a request that front looked at.
type outcome byte

const (
	answered outcome = iota
	notOurs          // nothing was taken from the connection or written to it
	broken           // the connection must end
)

// maxFastBody is the size up to which front holds an answer's body in memory; a larger one is copied through.
const maxFastBody = 32 << 10

// freshFor is how long front takes a credential that it has just checked for good.
const freshFor = 100 * time.Millisecond

var (
	headEnd    = []byte("\r\n\r\n")
	fastMethod = []byte("GET /api/v1/sessions/")
	fastProto  = []byte(" HTTP/1.1")
	fastAgent  = []byte("/agent/")
)

// fastRequest is a request that front may answer. Its slices are the read buffer's.
type fastRequest struct {
	id, path, query []byte // path and query as the runner sees them
	host, cred      []byte
	requestID       []byte
	xff             []byte
	lines           [24][]byte // header lines that go on as they are
	n               int
	traced          bool
}

// parseFast reads the head of a simple request: a GET below …/agent/ in plain characters, a bearer credential, and no header that would need
// more than to be passed on or left out. It is strict in what it takes: anything else is net/http's.
func parseFast(head []byte, q *fastRequest) bool {
	line, rest, ok := bytes.Cut(head, []byte("\r\n"))
	if !ok {
		return false
	}
	target, ok := bytes.CutPrefix(line, fastMethod)
	if !ok {
		return false
	}
	if target, ok = bytes.CutSuffix(target, fastProto); !ok {
		return false
	}
	var tail []byte
	q.id, tail, ok = bytes.Cut(target, []byte("/"))
	if !ok || !api.ValidID(api.KindSession, string(q.id)) || !bytes.HasPrefix(target[len(q.id):], fastAgent) {
		return false
	}
	tail = tail[len("agent"):]
	q.path, q.query, _ = bytes.Cut(tail, []byte("?"))
	for i, c := range q.path {
		// No percent sign, no dot or slash after a slash: nothing to decode, nothing to clean.
		if !plainPath[c] || (c == '/' || c == '.') && i > 0 && q.path[i-1] == '/' {
			return false
		}
	}
	if len(q.path) > 1 && q.path[1] == '_' {
		return false
	}
	for _, c := range q.query {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	if bytes.Contains(q.query, []byte("token=")) {
		return false
	}
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		if !q.header(line) {
			return false
		}
	}
	return len(q.host) > 0 && len(q.cred) > 0
}

// plainPath are the characters of a path that mean themselves everywhere.
var plainPath = func() (is [256]bool) {
	for _, c := range []byte("/-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		is[c] = true
	}
	return is
}()

// header takes one header line.
func (q *fastRequest) header(line []byte) bool {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 || colon > maxFastName {
		return false
	}
	var buf [maxFastName]byte
	name := buf[:colon]
	for i, c := range line[:colon] {
		if !tokenChar[c] {
			return false
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		name[i] = c
	}
	value := bytes.Trim(line[colon+1:], " \t")
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	kind := fastHeaders[string(name)]
	switch kind {
	case passHeader, traceHeader:
		if q.n == len(q.lines) {
			return false
		}
		q.lines[q.n] = line
		q.n++
		q.traced = q.traced || kind == traceHeader
	case hostHeader:
		if q.host != nil || len(value) == 0 {
			return false
		}
		q.host = value
	case credHeader:
		cred, ok := bytes.CutPrefix(value, []byte("Bearer "))
		if q.cred != nil || !ok {
			return false
		}
		q.cred = cred
	case connectionHeader:
		return bytes.EqualFold(value, []byte("keep-alive"))
	case requestIDHeader:
		if q.requestID != nil || !validRequestID(string(value)) {
			return false
		}
		q.requestID = value
	case forwardedForHeader:
		if q.xff != nil {
			return false
		}
		q.xff = value
	case dropHeader:
	default:
		return false
	}
	return true
}

const maxFastName = 32

type fastHeader byte

const (
	unknownHeader fastHeader = iota // net/http's
	passHeader
	traceHeader
	dropHeader
	hostHeader
	credHeader
	connectionHeader
	requestIDHeader
	forwardedForHeader
)

// fastHeaders are the headers of an ordinary client's read.
var fastHeaders = map[string]fastHeader{
	"accept": passHeader, "accept-encoding": passHeader, "accept-language": passHeader, "user-agent": passHeader, "if-none-match": passHeader,
	"if-modified-since": passHeader, "traceparent": traceHeader, "tracestate": traceHeader, "cache-control": passHeader, "pragma": passHeader,
	"x-forwarded-proto": dropHeader, "x-forwarded-host": dropHeader, "x-forwarded-port": dropHeader, "x-real-ip": dropHeader,
	"host": hostHeader, "authorization": credHeader, "connection": connectionHeader, "x-request-id": requestIDHeader, "x-forwarded-for": forwardedForHeader,
}

// request looks at the request that has come. As long as it returns notOurs, nothing was consumed.
func (c *frontConn) request() outcome {
	data, _ := c.br.Peek(c.br.Buffered())
	end := bytes.Index(data, headEnd)
	if end < 0 {
		return notOurs // not whole yet: net/http waits for the rest
	}
	var q fastRequest
	if !parseFast(data[:end+2], &q) || bytes.Contains(data[:end], []byte("text/event-stream")) {
		return notOurs
	}
	start := time.Now()
	g := c.f.g
	if string(q.host) != c.host {
		host := string(q.host)
		if g.guard.checkHost(host) != nil {
			return notOurs
		}
		c.host = host
	}
	ip, ipKey := c.ip, c.ipKey
	if len(q.xff) > 0 && len(g.proxies) > 0 {
		ip = g.clientIP(c.ip, []string{string(q.xff)})
		ipKey = addressBucket(ip)
	}
	ctx := g.base
	// A revocation is in force within a second; a busy connection need not ask on each request.
	if c.caller == nil || string(q.cred) != c.cred || start.Sub(c.checked) > freshFor && !g.auth.fresh(ctx, c.caller) {
		actx, cancel := context.WithTimeout(ctx, exchangeTimeout)
		who, err := g.auth.caller(actx, string(q.cred), ip)
		cancel()
		if err != nil {
			return notOurs
		}
		c.caller, c.cred, c.checked = who, string(q.cred), start
	} else if start.Sub(c.checked) > freshFor {
		c.checked = start
	}
	if string(q.id) != c.session {
		c.session = string(q.id)
	}
	row, err := g.table.find(c.caller.Principal, c.session, api.SessionRead)
	if err != nil {
		return notOurs
	}
	to, err := row.reach()
	if err != nil {
		return notOurs
	}
	// Last, since net/http takes from the buckets itself.
	if d := g.deps.Local.Take(ctx, ipKey, 1, g.cfg.AddressRate); !d.Allowed {
		return notOurs
	}
	d := g.deps.Local.Take(ctx, c.caller.bucket, 1, g.cfg.PrincipalRate)
	if !d.Allowed {
		return notOurs
	}
	up := g.proxy.upstream(to)
	if key, ok := c.pollKey(&q); ok {
		return c.poll(key, &q, end+len(headEnd), up, to, ip, d, start)
	}
	return c.forward(&q, end+len(headEnd), up, to, ip, d, start)
}

// forward does the round trip to the session.
func (c *frontConn) forward(q *fastRequest, size int, up *upstream, to endpoint, ip string, d limit.Decision, start time.Time) outcome {
	conn, a, out := c.ask(q, up, to, ip, start)
	if out != answered {
		return out
	}
	return c.reply(q, size, conn, &up.lean, &a, d, start)
}

// ask sends the request to the session and reads the answer's head. Unless it returns answered, there is no connection to go on with.
func (c *frontConn) ask(q *fastRequest, to *upstream, at endpoint, ip string, start time.Time) (*leanConn, answerHead, outcome) {
	g := c.f.g
	for try := 0; ; try++ {
		up, err := to.lean.get(g.base, try == retries)
		if err != nil {
			return nil, answerHead{}, notOurs
		}
		up.extend(start)
		up.writeFast(q, c.host, ip, at.key, g.guard.secure)
		used := !up.since.IsZero()
		if _, err = up.Write(up.out); err == nil {
			_, err = up.br.Peek(1)
		}
		if err != nil {
			_ = up.Close()
			if errors.Is(stale(used, err), errStale) && try < retries {
				continue
			}
			if isTimeout(err) {
				c.unavailable()
				return nil, answerHead{}, broken // asking again would wait as long
			}
			return nil, answerHead{}, notOurs
		}
		a := answerHead{fields: up.fields[:0]}
		if err := up.readHead(&a); err != nil || a.chunked || a.length < 0 && !bodyless(a.status) || a.status < 200 {
			// A stream, or nonsense: net/http asks again.
			_ = up.Close()
			return nil, answerHead{}, notOurs
		}
		return up, a, answered
	}
}

// unavailable is the one refusal that front writes itself.
func (c *frontConn) unavailable() {
	const body = `{"type":"https://agentyard.dev/errors/unavailable","title":"Not available now","status":503,"detail":"the session did not answer in time","code":"unavailable"}`
	c.extend(time.Now())
	_, _ = c.Write([]byte("HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: " +
		strconv.Itoa(len(body)) + "\r\n\r\n" + body))
	c.f.g.metrics.observe(routeAgent, http.StatusServiceUnavailable, answerTimeout)
}

func bodyless(status int) bool {
	return status == http.StatusNoContent || status == http.StatusNotModified
}

// reply sends the answer on.
func (c *frontConn) reply(q *fastRequest, size int, up *leanConn, pool *leanPool, a *answerHead, d limit.Decision, start time.Time) outcome {
	g := c.f.g
	c.extend(start)
	prefix := "/api/v1/sessions/" + c.session + "/agent"
	c.out = a.appendHead(c.out[:0], prefix, g.guard.secure, d, q.requestID)
	_, _ = c.br.Discard(size) // q is void from here on
	left := a.length
	if bodyless(a.status) {
		left = 0
	}
	ok := true
	for {
		n := int(min(left, int64(up.br.Buffered()), maxFastBody))
		if n > 0 {
			part, _ := up.br.Peek(n)
			c.out = append(c.out, part...)
			_, _ = up.br.Discard(n)
			left -= int64(n)
		}
		if left == 0 || len(c.out) >= maxFastBody {
			if _, err := c.Write(c.out); err != nil {
				ok = false
				break
			}
			c.out = c.out[:0]
			c.extend(time.Now())
		}
		if left == 0 {
			break
		}
		if up.br.Buffered() == 0 {
			if _, err := up.br.Peek(1); err != nil {
				ok = false // the client must not take what it has for all
				break
			}
		}
	}
	now := time.Now()
	g.metrics.observe(routeAgent, a.status, now.Sub(start))
	if !ok {
		_ = up.Close()
		return broken
	}
	pool.done(up, a.keep, now)
	if cap(c.out) > 2*maxFastBody {
		c.out = nil
	}
	return answered
}

// writeFast puts the request's head into c.out.
func (c *leanConn) writeFast(q *fastRequest, host, ip, key string, secure bool) {
	b := append(c.out[:0], "GET "...)
	b = append(b, q.path...)
	if len(q.query) > 0 {
		b = append(append(b, '?'), q.query...)
	}
	b = append(b, " HTTP/1.1\r\nHost: "+upstreamHost+"\r\n"...)
	for _, line := range q.lines[:q.n] {
		b = append(append(b, line...), "\r\n"...)
	}
	if len(q.requestID) > 0 {
		b = append(append(append(b, "X-Request-Id: "...), q.requestID...), "\r\n"...)
	}
	b = appendField(b, api.RunnerKeyHeader, key)
	b = appendField(b, "X-Forwarded-For", ip)
	b = appendField(b, "X-Forwarded-Host", host)
	if secure {
		b = append(b, "X-Forwarded-Proto: https\r\n"...)
	} else {
		b = append(b, "X-Forwarded-Proto: http\r\n"...)
	}
	c.out = append(b, "\r\n"...)
}

// appendHead writes the answer's head: what the session says, and what the gateway says of every answer.
func (a *answerHead) appendHead(b []byte, prefix string, secure bool, d limit.Decision, requestID []byte) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(a.status), 10)
	b = append(append(append(b, ' '), http.StatusText(a.status)...), "\r\n"...)
	cached, referrer := false, false
	for _, f := range a.fields {
		switch f.name {
		case "Cache-Control":
			cached = true
		case "Referrer-Policy":
			referrer = true
		case "Location":
			f.value = ownLocation(f.value, prefix)
		}
		b = appendField(b, f.name, f.value)
	}
	b = append(b, "Content-Security-Policy: "+sandbox+"\r\nX-Content-Type-Options: nosniff\r\n"...)
	if !cached {
		b = append(b, "Cache-Control: no-store\r\n"...)
	}
	if !referrer {
		b = append(b, "Referrer-Policy: no-referrer\r\n"...)
	}
	if secure {
		b = append(append(append(b, "Strict-Transport-Security: "...), valHSTS[0]...), "\r\n"...)
	}
	b = append(b, "Ratelimit-Limit: "...)
	b = strconv.AppendInt(b, int64(d.Limit), 10)
	b = append(b, "\r\nRatelimit-Remaining: "...)
	b = strconv.AppendInt(b, int64(d.Remaining), 10)
	b = append(b, "\r\nRatelimit-Reset: "...)
	b = strconv.AppendInt(b, int64((d.Reset+time.Second-1)/time.Second), 10)
	b = append(b, "\r\nX-Request-Id: "...)
	if len(requestID) > 0 {
		b = append(b, requestID...)
	} else {
		b = append(b, freshID()...)
	}
	return append(b, "\r\n\r\n"...)
}
