//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// crowd is live sessions under messages, each with a client that follows it over everything that happens.
type crowd struct {
	client   *yardtest.Client
	sessions []*conversation
	enough   context.CancelFunc
	stop     context.CancelFunc
	work     sync.WaitGroup
	follow   sync.WaitGroup
}

// conversation is one of its sessions.
type conversation struct {
	client  *yardtest.Client
	session string

	mu       sync.Mutex
	accepted []string       // ids of accepted messages
	besides  int            // messages that others sent
	answers  map[string]int // final answers seen by the follower, by message
	seen     []api.Event
	err      error
}

const (
	talkPause = 500 * time.Millisecond
	retryWait = 200 * time.Millisecond
	// settle is how long the last answers may take after the last blow.
	settle = 10 * time.Minute
)

// newCrowd makes n sessions, at once, and has them talked to until it is checked.
func newCrowd(t *testing.T, client *yardtest.Client, n int) *crowd {
	t.Helper()
	c := &crowd{client: client}
	for range n {
		var s api.Session
		client.Must(t, "POST", "/api/v1/sessions", api.CreateSessionRequest{Profile: profile}, &s)
		c.sessions = append(c.sessions, &conversation{client: client, session: s.ID, answers: map[string]int{}})
	}
	for _, s := range c.sessions {
		eventually(t, s.session+" runs", func() bool { return get(t, client, s.session).State == api.StateRunning })
	}
	talking, enough := context.WithCancel(t.Context())
	following, stop := context.WithCancel(t.Context())
	c.enough, c.stop = enough, stop
	for _, s := range c.sessions {
		c.work.Go(func() { s.talk(talking, t.Context()) })
		c.follow.Go(func() { s.listen(following) })
	}
	return c
}

// talk sends messages until enough ends, each with an idempotency key and as often as needed until it is accepted.
func (c *conversation) talk(enough, ctx context.Context) {
	for i := 0; enough.Err() == nil; i++ {
		content := fmt.Sprintf("echo message %d", i)
		if i%4 == 3 {
			content = "stream 20"
		}
		for ctx.Err() == nil {
			call, cancel := context.WithTimeout(ctx, 30*time.Second)
			status, body, err := c.client.Do(call, "POST", "/api/v1/sessions/"+c.session+"/messages",
				map[string]any{"content": content}, "Idempotency-Key", fmt.Sprintf("%s-%d", c.session, i))
			cancel()
			if err == nil && status == http.StatusAccepted {
				var accepted api.Accepted
				if err := json.Unmarshal(body, &accepted); err != nil {
					c.fail(fmt.Errorf("accepted with %s: %w", body, err))
					return
				}
				c.mu.Lock()
				c.accepted = append(c.accepted, accepted.ID)
				c.mu.Unlock()
				break
			}
			if err == nil && status < 500 && status != http.StatusTooManyRequests {
				c.fail(fmt.Errorf("send: status %d: %s", status, body))
				return
			}
			pause(ctx, retryWait)
		}
		pause(enough, talkPause)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (c *conversation) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

func (c *conversation) listen(ctx context.Context) {
	err := c.client.FollowUntil(ctx, c.session, 0, func(ev api.Event) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := len(c.seen); ev.Type == api.EventError && n > 0 && ev.Seq == c.seen[n-1].Seq {
			return true // a gateway that stops says why it ends the stream: no event of the log, and without an id of its own
		}
		c.seen = append(c.seen, ev)
		if ev.Type == api.EventAgentMessage && ev.Final {
			c.answers[ev.ReplyTo]++
		}
		return true
	})
	if err != nil && ctx.Err() == nil {
		c.fail(fmt.Errorf("follow: %w", err))
	}
}

// missing returns how many accepted messages have no answer yet, and what went wrong.
func (c *conversation) missing() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, id := range c.accepted {
		if c.answers[id] == 0 {
			n++
		}
	}
	return n, c.err
}

// answered waits until each session has answered a message that was sent after now.
func (c *crowd) answered(t *testing.T) {
	t.Helper()
	began := make([]int, len(c.sessions))
	count := func(s *conversation) int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.answers)
	}
	for i, s := range c.sessions {
		began[i] = count(s)
	}
	for i, s := range c.sessions {
		eventually(t, s.session+" answers again", func() bool {
			if _, err := s.missing(); err != nil {
				t.Fatalf("%s: %v", s.session, err)
			}
			return count(s) > began[i]+1
		})
	}
}

// check ends the talk, waits for the last answers, and compares what each client saw with the log.
func (c *crowd) check(t *testing.T) {
	t.Helper()
	c.enough()
	c.work.Wait()
	deadline := time.After(settle)
	messages := 0
	for _, s := range c.sessions {
		for left := 1; left > 0; {
			var err error
			if left, err = s.missing(); err != nil {
				t.Fatalf("%s: %v", s.session, err)
			}
			select {
			case <-deadline:
				t.Fatalf("%s: %d messages were never answered", s.session, left)
			case <-time.After(retryWait):
			}
		}
	}
	c.stop()
	c.follow.Wait()
	for _, s := range c.sessions {
		s.compare(t)
		messages += len(s.accepted)
		if got := get(t, c.client, s.session); got.State != api.StateRunning {
			t.Errorf("%s is said to be %s: %s", s.session, got.State, got.Reason)
		}
	}
	t.Logf("%d sessions, %d messages, each in the log once and answered once", len(c.sessions), messages)
}

func (c *conversation) compare(t *testing.T) {
	t.Helper()
	log := c.client.Events(t, c.session)
	asked, answered := map[string]int{}, map[string]int{}
	for _, ev := range log {
		switch {
		case ev.Type == api.EventUserMessage:
			asked[ev.MessageID]++
		case ev.Type == api.EventAgentMessage && ev.Final:
			answered[ev.ReplyTo]++
		case ev.Type == api.EventGap:
			t.Errorf("%s: the log has a gap %d–%d", c.session, ev.From, ev.To)
		}
	}
	for _, id := range c.accepted {
		if asked[id] != 1 || answered[id] != 1 {
			t.Errorf("%s: message %s is %d times in the log and answered %d times", c.session, id, asked[id], answered[id])
		}
	}
	if len(asked) != len(c.accepted)+c.besides {
		t.Errorf("%s: the log holds %d messages, %d were accepted", c.session, len(asked), len(c.accepted)+c.besides)
	}
	for i, ev := range c.seen {
		if i >= len(log) || log[i].Seq != ev.Seq || log[i].Type != ev.Type {
			t.Errorf("%s: the client's event %d of %d is %+v; of the log's %d it is %+v: a gap or a duplicate",
				c.session, i, len(c.seen), ev, len(log), log[min(i, len(log)-1)])
			return
		}
	}
}

func (c *crowd) ids() []string {
	var ids []string
	for _, s := range c.sessions {
		ids = append(ids, s.session)
	}
	return ids
}
