package runner

import (
	"encoding/json"
	"fmt"
	"strings"
)

// A message in the log must fit the bus's payload (1 MiB) as JSON, whatever its text is.
const (
	maxHead    = 256 << 10 // of a message's beginning
	maxTail    = 64 << 10  // and of its end; the chunks hold what is between
	maxEncoded = 768 << 10
	maxDelta   = 32 << 10 // of one chunk
)

// text assembles a message from chunks in bounded memory: a very long one keeps its
// beginning and its end and says what was left out. The chunks hold all of it.
type text struct {
	id   string // of the message; empty: nothing was said since the last boundary
	head []byte
	tail []byte
	left int // bytes between head and tail
}

func (t *text) add(delta string) {
	if n := min(len(delta), maxHead-len(t.head)); n > 0 && len(t.tail) == 0 && t.left == 0 {
		t.head = append(t.head, delta[:n]...)
		delta = delta[n:]
	}
	t.tail = append(t.tail, delta...)
	if over := len(t.tail) - maxTail; over > maxTail { // in steps, so that a byte is moved once or twice only
		t.left += over
		t.tail = append(t.tail[:0], t.tail[over:]...)
	}
}

func (t *text) empty() bool { return len(t.head) == 0 }

// String returns the message, shortened until its JSON form fits.
func (t *text) String() string {
	head, tail, left := t.head, t.tail, t.left
	if over := len(tail) - maxTail; over > 0 && (left > 0 || len(head)+len(tail) > maxHead+maxTail) {
		left += over
		tail = tail[over:]
	}
	for {
		s := join(head, tail, left)
		if data, _ := json.Marshal(s); len(data) <= maxEncoded {
			return s
		}
		if left == 0 && len(tail) == 0 { // all is in head
			head, tail = head[:len(head)/2], head[len(head)/2:]
		}
		keepHead, keepTail := len(head)*3/4, len(tail)*3/4
		left += len(head) - keepHead + len(tail) - keepTail
		head, tail = head[:keepHead], tail[len(tail)-keepTail:]
	}
}

func join(head, tail []byte, left int) string {
	if left == 0 {
		return strings.ToValidUTF8(string(head)+string(tail), "\uFFFD")
	}
	return strings.ToValidUTF8(string(head), "") + fmt.Sprintf("\n… (%d bytes left out)\n", left) + strings.ToValidUTF8(string(tail), "")
}

// pieces cuts s into deltas that fit an event, between characters.
func pieces(s string) []string {
	var out []string
	for len(s) > maxDelta {
		n := maxDelta
		for n > maxDelta-4 && s[n]&0xC0 == 0x80 {
			n--
		}
		out = append(out, s[:n])
		s = s[n:]
	}
	return append(out, s)
}
