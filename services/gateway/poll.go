package gateway

import (
	"sync"
	"time"

	"agentyard.dev/libs/limit"
)

// What clients poll, a session's status, is asked of its runner once for all who wait: while one question is on its way, those who come
// gather, and the next question, sent after all of them have come, answers them all. So nobody gets an answer that is older than
// their request, and a hundred clients that watch one session cost its runner little more than one. Each of them was let in
// by itself before, and only requests that say the same share.

// polls gathers the polls of one runner.
type polls struct {
	mu     sync.Mutex
	asking bool
	next   *poll // who gathers for the next question; nil: nobody yet
}

// poll is one question that several wait for.
type poll struct {
	key    string
	others int           // who wait for it besides its asker
	turn   chan struct{} // closed when its first asker may ask
	done   chan struct{} // closed when answer is set
	answer *polled
}

// polled is an answer for all. It is not written to any more.
type polled struct {
	head answerHead
	body []byte
}

// join returns when the caller must ask, and then finish, (asker) or has the answer of one who did. Without either the caller asks for itself, outside of all this.
func (p *polls) join(key []byte) (mine *poll, asker bool, answer *polled) {
	p.mu.Lock()
	switch next := p.next; {
	case !p.asking:
		p.asking = true
		p.mu.Unlock()
		return nil, true, nil
	case next == nil:
		mine = &poll{key: string(key), turn: make(chan struct{}), done: make(chan struct{})}
		p.next = mine
		p.mu.Unlock()
		<-mine.turn // the one before has its timeout
		return mine, true, nil
	case next.key == string(key):
		next.others++
		p.mu.Unlock()
		<-next.done
		return nil, false, next.answer
	}
	p.mu.Unlock()
	return nil, false, nil
}

// finish gives the answer, nil if there is none to share, to those who wait for it, and the turn to the next.
func (p *polls) finish(mine *poll, answer *polled) {
	p.mu.Lock()
	next := p.next
	p.next, p.asking = nil, next != nil
	p.mu.Unlock()
	if next != nil {
		close(next.turn)
	}
	if mine != nil {
		mine.answer = answer
		close(mine.done)
	}
}

// pollKey returns what must be the same in requests that share an answer, and whether this one may. A traced request stays
// its own: its trace goes on in the runner.
func (c *frontConn) pollKey(q *fastRequest) (key []byte, ok bool) {
	if string(q.path) != "/status" || q.traced {
		return nil, false
	}
	c.key = append(c.key[:0], q.query...)
	for _, line := range q.lines[:q.n] {
		c.key = append(append(c.key, '\n'), line...)
	}
	return c.key, true
}

// poll answers a request of which others may ask the same.
func (c *frontConn) poll(key []byte, q *fastRequest, size int, up *upstream, to endpoint, ip string, d limit.Decision, start time.Time) outcome {
	mine, asker, answer := up.polls.join(key)
	if !asker {
		if answer == nil {
			return c.forward(q, size, up, to, ip, d, start)
		}
		c.f.g.metrics.shared.Inc()
		return c.replyPolled(q, size, answer, d, start)
	}
	conn, a, out := c.ask(q, up, to, ip, start)
	if out == answered {
		answer = conn.share(&a)
	}
	up.polls.finish(mine, answer)
	switch {
	case out != answered:
		return out
	case answer == nil:
		return c.reply(q, size, conn, &up.lean, &a, d, start)
	}
	up.lean.done(conn, a.keep, time.Now())
	return c.replyPolled(q, size, answer, d, start)
}

// share reads the answer's body, if it is one that all can have: small and there already, as the runner sends it.
func (c *leanConn) share(a *answerHead) *polled {
	left := a.length
	if bodyless(a.status) {
		left = 0
	}
	if left > int64(c.br.Buffered()) {
		return nil
	}
	body := make([]byte, left)
	part, _ := c.br.Peek(len(body))
	copy(body, part)
	_, _ = c.br.Discard(len(body))
	head := *a
	head.fields = append([]field(nil), a.fields...)
	return &polled{head: head, body: body}
}

// replyPolled sends an answer that was got for several.
func (c *frontConn) replyPolled(q *fastRequest, size int, p *polled, d limit.Decision, start time.Time) outcome {
	g := c.f.g
	now := time.Now()
	c.extend(now)
	c.out = p.head.appendHead(c.out[:0], "/api/v1/sessions/"+c.session+"/agent", g.guard.secure, d, q.requestID)
	c.out = append(c.out, p.body...)
	_, _ = c.br.Discard(size) // q is void from here on
	_, err := c.Write(c.out)
	g.metrics.observe(routeAgent, p.head.status, now.Sub(start))
	if err != nil {
		return broken
	}
	return answered
}
