package sessions

import (
	"context"
	"slices"
	"strings"
	"unicode/utf8"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// Where a question is looked for: near the log's end first, since it is the last thing that an agent does until it is answered; in sequences, of which an entry has some
// thousand and other sessions' entries have theirs.
const (
	questionNear  = 1 << 18
	questionWider = 1 << 6 // times, when it is not there
)

// answer answers an agent's question with one of the options that it offers. The first answer counts: repeating it is success, another one is conflict.
func (s *Service) answer(ctx context.Context, req api.AnswerApprovalRequest) (api.Accepted, error) {
	e, p, err := s.find(ctx, api.SessionWrite, req.ID)
	if err != nil {
		return api.Accepted{}, err
	}
	var bad problems
	if req.ApprovalID == "" || len(req.ApprovalID) > maxKey || !utf8.ValidString(req.ApprovalID) {
		bad.Add("/approval_id", "is not the id of a question")
	}
	if req.Option == "" || len(req.Option) > maxKey || !utf8.ValidString(req.Option) {
		bad.Add("/option", "is not one of the question's options")
	}
	if err := bad.Err(); err != nil {
		return api.Accepted{}, err
	}
	if !wantsRunner(e.State.State) {
		return api.Accepted{}, api.Errorf(api.CodeConflict, "the session is %s: no question is open", e.State.State)
	}
	if err := s.offered(ctx, e.Key, req); err != nil {
		return api.Accepted{}, err
	}
	dedup := api.DeriveID(api.KindApproval, e.Key.Tenant, e.Key.ID, req.ApprovalID)
	seq, duplicate, err := s.events.AppendUser(ctx, e.Key.Tenant, e.Key.ID, dedup, api.Event{
		Type: api.EventApprovalAnswer, At: s.now().UTC(), Actor: p.ID, ApprovalID: req.ApprovalID, Option: req.Option,
	})
	if err != nil {
		return api.Accepted{}, err
	}
	if duplicate {
		first, found, err := s.entry(ctx, e.Key, seq)
		if err != nil {
			return api.Accepted{}, err
		}
		if found && first.Option != req.Option {
			return api.Accepted{}, api.Errorf(api.CodeConflict, "this question was answered already, with %q", clip(first.Option, 80))
		}
	}
	return api.Accepted{ID: req.ApprovalID, Seq: seq}, nil
}

// offered refuses an answer that its question does not offer: an agent would wait on, and the first answer counts. A question that the log has
// lost by its age is believed to be there.
func (s *Service) offered(ctx context.Context, key bus.Key, req api.AnswerApprovalRequest) error {
	question, found, err := s.question(ctx, key, req.ApprovalID)
	switch {
	case err != nil:
		return err
	case !found:
		return api.Errorf(api.CodeNotFound, "the session's agent has asked no question %q", clip(req.ApprovalID, 80))
	case question.Type == api.EventGap || slices.ContainsFunc(question.Options, func(o api.ApprovalOption) bool { return o.Option == req.Option }):
		return nil
	}
	options := make([]string, len(question.Options))
	for i, o := range question.Options {
		options[i] = o.Option
	}
	return api.Invalid("/option", "is not one of the question's options: %s", clip(strings.Join(options, ", "), 200))
}

// question reads a question of a session's agent; it is a gap when it may have been among what the log does not have any more.
func (s *Service) question(ctx context.Context, key bus.Key, id string) (q api.Event, found bool, err error) {
	end, _, err := s.events.Position(ctx, key.Tenant, key.ID)
	if err != nil {
		return q, false, err
	}
	for back := uint64(questionNear); ; back *= questionWider {
		after, last := end-min(back, end), back >= end
		for more := true; more; {
			var evs []api.Event
			if evs, more, err = s.events.Read(ctx, key.Tenant, key.ID, api.WriterAgent, after, scanPage); err != nil {
				return q, false, err
			}
			for _, ev := range evs {
				switch {
				case ev.Type == api.EventApprovalRequest && ev.ApprovalID == id:
					return ev, true, nil
				case ev.Type == api.EventGap && last:
					q, found = ev, true
				}
				after = ev.Seq
			}
		}
		if last {
			return q, found, nil
		}
	}
}

// entry reads one event of the user's side of a log.
func (s *Service) entry(ctx context.Context, key bus.Key, seq uint64) (api.Event, bool, error) {
	evs, _, err := s.events.Read(ctx, key.Tenant, key.ID, api.WriterUser, seq-1, 1)
	if err != nil {
		return api.Event{}, false, err
	}
	for _, ev := range evs {
		if ev.Seq == seq {
			return ev, true, nil
		}
	}
	return api.Event{}, false, nil
}
