package promises

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// The size of the scenario.
const (
	lostSessions = 20
	lostMessages = 12 // a session, at least: it goes on until the last kill
	lostKills    = 4  // of each process
	lostWithin   = 4 * time.Minute
)

// TestNothingLost kills the yard's processes with -9 while 20 sessions work, and expects
// every accepted message to be answered exactly once and every client's stream to be
// the log, without a gap and without a duplicate.
func TestNothingLost(t *testing.T) {
	yardtest.EachArrangement(t, func(t *testing.T, y *yardtest.Yard) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		ctx, cancel := context.WithTimeout(t.Context(), lostWithin)
		defer cancel()

		var conversations []*conversation
		for range lostSessions {
			s := y.Client.Session(t, api.CreateSessionRequest{Agent: &api.Agent{Kind: "demo"}})
			conversations = append(conversations, &conversation{yard: y, session: s.ID, answers: map[string]int{}, progress: make(chan struct{}, 1)})
		}
		var work, follow sync.WaitGroup
		killed := make(chan struct{})
		followCtx, stopFollowing := context.WithCancel(ctx)
		defer stopFollowing()
		for _, c := range conversations {
			follow.Go(func() { c.follow(followCtx) })
			pause := time.Duration(200+random.IntN(400)) * time.Millisecond
			work.Go(func() { c.talk(ctx, pause, killed) })
		}
		sent := make(chan struct{})
		go func() { work.Wait(); close(sent) }()

		for range lostKills {
			for _, name := range y.Processes() {
				select { // not before, not after: at a random moment of the work
				case <-time.After(time.Duration(300+random.IntN(900)) * time.Millisecond):
				case <-ctx.Done():
				}
				t.Logf("kill -9 %s", name)
				y.Kill(t, name)
				y.Restart(t, name)
			}
		}
		close(killed)
		select {
		case <-sent:
		case <-ctx.Done():
			t.Fatal("the messages were not all accepted in time")
		}
		for _, c := range conversations {
			c.awaitAnswers(ctx, t)
		}
		stopFollowing()
		follow.Wait()
		y.Ready(t)
		for _, c := range conversations {
			c.check(t)
		}
	})
}

// conversation is one session with a person who sends and a client that follows.
type conversation struct {
	yard    *yardtest.Yard
	session string

	mu       sync.Mutex
	accepted []string       // ids of accepted messages
	answers  map[string]int // final answers seen by the follower, by message
	seen     []api.Event
	err      error
	progress chan struct{}
}

// talk sends messages until enough is closed, each with an idempotency key and as often
// as needed until it is accepted.
func (c *conversation) talk(ctx context.Context, pause time.Duration, enough <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-enough:
			if i >= lostMessages {
				return
			}
		case <-ctx.Done():
			return
		default:
		}
		content := fmt.Sprintf("echo message %d", i)
		if i%4 == 3 {
			content = "stream 20"
		}
		key := fmt.Sprintf("%s-%d", c.session, i)
		for ctx.Err() == nil {
			status, body, err := c.yard.Client.Do(ctx, "POST", "/api/v1/sessions/"+c.session+"/messages",
				map[string]any{"content": content}, "Idempotency-Key", key)
			if err == nil && status == http.StatusAccepted {
				var acc api.Accepted
				if err := json.Unmarshal(body, &acc); err != nil {
					c.fail(fmt.Errorf("accepted with %s: %w", body, err))
					return
				}
				c.mu.Lock()
				c.accepted = append(c.accepted, acc.ID)
				c.mu.Unlock()
				break
			}
			if err == nil && status < 500 && status != http.StatusTooManyRequests {
				c.fail(fmt.Errorf("send: status %d: %s", status, body))
				return
			}
			wait(ctx, 100*time.Millisecond)
		}
		wait(ctx, pause)
	}
}

func wait(ctx context.Context, d time.Duration) {
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

func (c *conversation) follow(ctx context.Context) {
	err := c.yard.Client.FollowUntil(ctx, c.session, 0, func(ev api.Event) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.seen = append(c.seen, ev)
		if ev.Type == api.EventAgentMessage && ev.Final {
			c.answers[ev.ReplyTo]++
		}
		select {
		case c.progress <- struct{}{}:
		default:
		}
		return true
	})
	if err != nil && ctx.Err() == nil {
		c.fail(fmt.Errorf("follow: %w", err))
	}
}

// awaitAnswers returns when the follower has seen an answer to each accepted message.
func (c *conversation) awaitAnswers(ctx context.Context, t *testing.T) {
	t.Helper()
	for {
		c.mu.Lock()
		missing, err := 0, c.err
		for _, id := range c.accepted {
			if c.answers[id] == 0 {
				missing++
			}
		}
		c.mu.Unlock()
		switch {
		case err != nil:
			t.Fatalf("session %s: %v", c.session, err)
		case missing == 0:
			return
		}
		select {
		case <-c.progress:
		case <-ctx.Done():
			t.Fatalf("session %s: %d messages were never answered", c.session, missing)
		}
	}
}

// check compares what the follower saw with the log as a client reads it afterwards.
func (c *conversation) check(t *testing.T) {
	t.Helper()
	if len(c.accepted) < lostMessages {
		t.Errorf("session %s: %d of %d messages accepted", c.session, len(c.accepted), lostMessages)
	}
	log := c.yard.Client.Events(t, c.session)
	asked, answered := map[string]int{}, map[string]int{}
	for _, ev := range log {
		switch {
		case ev.Type == api.EventUserMessage:
			asked[ev.MessageID]++
		case ev.Type == api.EventAgentMessage && ev.Final:
			answered[ev.ReplyTo]++
		case ev.Type == api.EventGap:
			t.Errorf("session %s: the log has a gap %d–%d", c.session, ev.From, ev.To)
		}
	}
	for _, id := range c.accepted {
		if asked[id] != 1 || answered[id] != 1 {
			t.Errorf("session %s: message %s is %d times in the log and answered %d times", c.session, id, asked[id], answered[id])
		}
	}
	if len(asked) != len(c.accepted) {
		t.Errorf("session %s: the log holds %d messages, %d were accepted", c.session, len(asked), len(c.accepted))
	}
	for i, ev := range c.seen {
		if i >= len(log) || log[i].Seq != ev.Seq || log[i].Type != ev.Type {
			t.Errorf("session %s: the client's event %d is %s at %d; the log's differs: a gap or a duplicate", c.session, i, ev.Type, ev.Seq)
			return
		}
	}
}
