package sessions

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

const (
	// maxMessage bounds a message's content and attachments together, as they stand in JSON.
	maxMessage        = 1 << 20
	maxAttachmentName = 255
	// pausingRetry is what a sender is told to wait while a session is being put aside and takes longer than pausingWait.
	pausingRetry = time.Second
	pausingWait  = 5 * time.Second
	// resumeWait is how long a message to a paused session waits for it to run. It is in the log before, so it is
	// accepted in any case.
	resumeWait = 2 * time.Second
	// sendTimeout leaves room for the writes between the waits.
	sendTimeout = pausingWait + resumeWait + writeTimeout
	// scanPage and scanPages bound how much of a log one request for messages reads; what lies beyond is the next page's.
	scanPage  = 1000
	scanPages = 20
)

// send appends a user's message to the session's log, from which its runner takes it, now or whenever it runs. A paused session is brought
// back, and the request held until it runs, so that whoever has the answer finds it running; one that is being put aside is
// brought back as soon as it has been.
func (s *Service) send(ctx context.Context, req api.SendMessageRequest) (api.Accepted, error) {
	e, p, err := s.find(ctx, api.SessionWrite, req.ID)
	if err != nil {
		return api.Accepted{}, err
	}
	if err := checkMessage(req); err != nil {
		return api.Accepted{}, err
	}
	if e, err = s.putAside(ctx, e); err != nil {
		return api.Accepted{}, err
	}
	if err := s.mayTell(e.State.State); err != nil {
		return api.Accepted{}, err
	}
	if req.Renew != nil {
		if err := s.mayRenew(ctx, p, e.State, *req.Renew); err != nil {
			return api.Accepted{}, err
		}
	}
	id := api.NewID(api.KindMessage)
	if req.IdempotencyKey != "" {
		id = api.DeriveID(api.KindMessage, e.Key.Tenant, e.Key.ID, p.ID, req.IdempotencyKey)
	}
	s.tracker.touch(e.Key, s.now())
	seq, duplicate, err := s.events.AppendUser(ctx, e.Key.Tenant, e.Key.ID, id, api.Event{
		Type: api.EventUserMessage, At: s.now().UTC(), Actor: p.ID, MessageID: id, Content: req.Content, Attachments: req.Attachments,
		Renew: req.Renew, TraceParent: traceParent(ctx),
	})
	if err != nil {
		return api.Accepted{}, err
	}
	if duplicate {
		first, found, err := s.entry(ctx, e.Key, seq)
		if err != nil {
			return api.Accepted{}, err
		}
		if found && (first.Content != req.Content || !slices.EqualFunc(first.Attachments, req.Attachments, sameAttachment)) {
			return api.Accepted{}, api.Errorf(api.CodeConflict, "this idempotency key was used for another message")
		}
	}
	if now, ok := s.view.Get(e.Key); ok { // it may have been put aside in between
		e = now
	}
	if e.State.State == api.StatePaused {
		if _, err := s.bringBack(ctx, e.Key, 0, p.ID); err != nil && api.CodeOf(err) != api.CodeConflict {
			return api.Accepted{}, err // the message waits in the log; the caller may repeat it with its key
		}
		s.untilRuns(ctx, e.Key)
	}
	return api.Accepted{ID: id, Seq: seq}, nil
}

// putAside waits for a session that is being put aside to be so.
func (s *Service) putAside(ctx context.Context, e bus.Entry[api.SessionRecord]) (bus.Entry[api.SessionRecord], error) {
	if e.State.State != api.StatePausing {
		return e, nil
	}
	wait, cancel := context.WithTimeout(ctx, pausingWait)
	defer cancel()
	settled, err := s.view.Wait(wait, e.Key, func(now bus.Entry[api.SessionRecord]) bool { return now.State.State != api.StatePausing })
	if err != nil {
		return e, s.mayTell(e.State.State)
	}
	return settled, nil
}

// untilRuns waits until a session that was brought back runs, or for resumeWait.
func (s *Service) untilRuns(ctx context.Context, key bus.Key) {
	wait, cancel := context.WithTimeout(ctx, resumeWait)
	defer cancel()
	_, _ = s.view.Wait(wait, key, func(now bus.Entry[api.SessionRecord]) bool { // in vain is no error: the message is accepted
		return now.State.State == api.StateRunning || !wantsRunner(now.State.State) && now.State.State != api.StatePaused
	})
}

func sameAttachment(a, b api.Attachment) bool {
	return a.Name == b.Name && a.Type == b.Type && bytes.Equal(a.Data, b.Data)
}

func checkMessage(req api.SendMessageRequest) error {
	var bad problems
	size := len(req.Content)
	if req.Content == "" && len(req.Attachments) == 0 {
		bad.Add("/content", "is required")
	}
	if !utf8.ValidString(req.Content) {
		bad.Add("/content", "is not UTF-8")
	}
	for i, a := range req.Attachments {
		if at := "/attachments/" + strconv.Itoa(i) + "/name"; a.Name == "" {
			bad.Add(at, "is required")
		} else {
			bad.Line(at, a.Name, maxAttachmentName)
		}
		size += len(a.Name) + len(a.Type) + (len(a.Data)+2)/3*4
	}
	if size > maxMessage {
		bad.Add("/content", "message and attachments are %d bytes; at most %d are allowed", size, maxMessage)
	}
	if len(req.IdempotencyKey) > maxKey {
		bad.Add("/idempotency_key", "must be at most %d bytes", maxKey)
	}
	return bad.Err()
}

// mayTell reports whether a session in state st takes what a person says.
func (s *Service) mayTell(st api.State) error {
	switch {
	case takesMessages(st):
		return nil
	case st == api.StatePausing:
		return &api.Error{Code: api.CodeUnavailable, Detail: "the session is being put aside; try again in a second", RetryAfter: pausingRetry}
	}
	return api.Errorf(api.CodeConflict, "the session is %s and takes no more messages", st)
}

// interrupt asks the agent to end its turn.
func (s *Service) interrupt(ctx context.Context, req api.SessionRef) (api.Accepted, error) {
	e, p, err := s.find(ctx, api.SessionWrite, req.ID)
	if err != nil {
		return api.Accepted{}, err
	}
	if !wantsRunner(e.State.State) {
		return api.Accepted{}, api.Errorf(api.CodeConflict, "the session is %s: there is nothing to interrupt", e.State.State)
	}
	id := api.NewID(api.KindMessage)
	seq, _, err := s.events.AppendUser(ctx, e.Key.Tenant, e.Key.ID, id, api.Event{Type: api.EventInterrupt, At: s.now().UTC(), Actor: p.ID})
	return api.Accepted{ID: id, Seq: seq}, err
}

// messages returns the conversation, oldest first. A page may be short of its limit, even empty, when much else lies between two messages:
// a cursor says that there is more.
func (s *Service) messages(ctx context.Context, req api.ListMessagesRequest) (api.Page[api.Message], error) {
	page := api.Page[api.Message]{Items: []api.Message{}}
	e, _, err := s.find(ctx, api.SessionRead, req.ID)
	if err != nil {
		return page, err
	}
	limit, err := req.Bound()
	if err != nil {
		return page, err
	}
	after, err := api.DecodeCursor(cursorMessages, req.Cursor)
	if err != nil {
		return page, err
	}
	for range scanPages {
		evs, more, err := s.events.Read(ctx, e.Key.Tenant, e.Key.ID, "", after, scanPage)
		if err != nil {
			return page, err
		}
		for _, ev := range evs {
			m, ok := messageOf(ev)
			if ok && len(page.Items) == limit {
				page.NextCursor = api.EncodeCursor(cursorMessages, after)
				return page, nil
			}
			after = ev.Seq
			if ok {
				page.Items = append(page.Items, m)
			}
		}
		if !more {
			return page, nil
		}
	}
	page.NextCursor = api.EncodeCursor(cursorMessages, after)
	return page, nil
}

// The roles of a conversation's messages.
const (
	roleUser  = "user"
	roleAgent = "agent"
)

// messageOf returns the entry of the conversation that an event is, if it is one.
func messageOf(ev api.Event) (api.Message, bool) {
	m := api.Message{ID: ev.MessageID, Seq: ev.Seq, Content: ev.Content, At: ev.At, ReplyTo: ev.ReplyTo}
	switch ev.Type {
	case api.EventUserMessage:
		m.Role = roleUser
	case api.EventAgentMessage:
		m.Role = roleAgent
	default:
		return api.Message{}, false
	}
	return m, true
}
