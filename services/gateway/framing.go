package gateway

import (
	"bytes"
	"errors"
	"net"
	"strconv"
)

// Whoever puts two HTTP servers behind one another must not let a client make them disagree about where a request ends. net/http
// forgives what other servers read differently: a length beside chunks, folded header lines, lines that end without CR. framedConn refuses
// these before net/http sees them, by following a connection's requests as they are read.

// errFraming makes net/http answer 400 and close the connection.
var errFraming = errors.New("ambiguous request framing")

// framedConn follows what is read from a client.
type framedConn struct {
	net.Conn
	f framing
}

func (c *framedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.f.follow(p[:n]) {
		return 0, errFraming
	}
	return n, err
}

// CloseWrite lets net/http end a connection gracefully.
func (c *framedConn) CloseWrite() error { return closeWrite(c.Conn) }

type framingState byte

const (
	inHead framingState = iota
	inBody              // left bytes follow
	inChunkSize
	inChunk    // left bytes and CRLF follow
	inTrailer  // to the empty line
	unfollowed // another protocol, or refused already
)

// framing is where one connection's bytes stand.
type framing struct {
	state   framingState
	line    []byte // the part of a line that has come
	first   bool   // the request line is through
	head    int    // bytes of this head
	left    int64
	length  int64 // -1: none
	chunked bool
	upgrade bool
	bad     bool
}

// follow takes the next bytes, and reports whether they may pass.
func (f *framing) follow(p []byte) bool {
	for len(p) > 0 && !f.bad {
		switch f.state {
		case unfollowed:
			return true
		case inBody, inChunk:
			n := min(int64(len(p)), f.left)
			p, f.left = p[n:], f.left-n
			if f.left == 0 {
				if f.state == inChunk {
					f.state = inChunkSize // the line that ends the chunk is empty, and passes there
				} else {
					f.reset()
				}
			}
		default:
			p = f.lines(p)
		}
	}
	return !f.bad
}

func (f *framing) reset() { *f = framing{line: f.line[:0], length: -1} }

// lines takes one line, or the part of one that is there.
func (f *framing) lines(p []byte) []byte {
	i := bytes.IndexByte(p, '\n')
	if i < 0 {
		if f.head += len(p); f.head > 2*maxHeader {
			f.state = unfollowed // net/http refuses it for its size
			return nil
		}
		f.line = append(f.line, p...)
		return nil
	}
	line := p[:i]
	if len(f.line) > 0 {
		f.line = append(f.line, line...)
		line = f.line
	}
	if f.head += i; f.head > 2*maxHeader {
		f.state = unfollowed
		return nil
	}
	n := len(line)
	if n == 0 || line[n-1] != '\r' {
		f.bad = true
		return nil
	}
	line = line[:n-1]
	if bytes.IndexByte(line, '\r') >= 0 {
		f.bad = true
		return nil
	}
	switch f.state {
	case inHead:
		f.headLine(line)
	case inChunkSize:
		f.chunkSize(line)
	case inTrailer:
		if len(line) == 0 {
			f.reset()
		}
	}
	f.line = f.line[:0]
	return p[i+1:]
}

func (f *framing) headLine(line []byte) {
	switch {
	case !f.first:
		if len(line) > 0 { // empty lines before a request are skipped (RFC 9112 §2.2)
			f.first, f.length = true, -1
		}
	case len(line) == 0:
		f.endOfHead()
	case line[0] == ' ' || line[0] == '\t':
		f.bad = true // obs-fold, RFC 9112 §5.2
	default:
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(name) == 0 || name[len(name)-1] == ' ' || name[len(name)-1] == '\t' {
			f.bad = true
			return
		}
		value = bytes.Trim(value, " \t")
		switch {
		case len(name) == 14 && bytes.EqualFold(name, []byte("Content-Length")):
			n, err := strconv.ParseUint(string(value), 10, 63)
			if err != nil || f.length >= 0 {
				f.bad = true
				return
			}
			f.length = int64(n)
		case len(name) == 17 && bytes.EqualFold(name, []byte("Transfer-Encoding")):
			if f.chunked || !bytes.EqualFold(value, []byte("chunked")) {
				f.bad = true
				return
			}
			f.chunked = true
		case len(name) == 7 && bytes.EqualFold(name, []byte("Upgrade")):
			f.upgrade = true
		}
	}
}

func (f *framing) endOfHead() {
	f.head = 0
	switch {
	case f.chunked && f.length >= 0:
		f.bad = true
	case f.upgrade && !f.chunked && f.length <= 0:
		// What follows may be another protocol. Should the upgrade be refused, net/http reads on
		// unfollowed: the gateway closes such a connection (see forward).
		f.state = unfollowed
	case f.chunked:
		f.state = inChunkSize
	case f.length > 0:
		f.state, f.left = inBody, f.length
	default:
		f.reset()
	}
}

func (f *framing) chunkSize(line []byte) {
	if len(line) == 0 { // the end of the chunk before
		return
	}
	size, _, _ := bytes.Cut(line, []byte(";"))
	n, err := strconv.ParseUint(string(bytes.TrimRight(size, " \t")), 16, 62)
	if err != nil {
		f.bad = true
		return
	}
	f.head = 0
	if n == 0 {
		f.state = inTrailer
		return
	}
	f.state, f.left = inChunk, int64(n)
}
