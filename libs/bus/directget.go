package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	json "github.com/go-json-experiment/json/v1"
	"github.com/nats-io/nats.go"

	"agentyard.dev/libs/api"
)

// stored is one message of a stream.
type stored struct {
	subject string
	seq     uint64
	header  nats.Header
	data    []byte
	foreign bool // see foreign
}

var (
	// errNoMessage says that a direct get found nothing.
	errNoMessage = errors.New("no message")
	// errTooMany says that more subjects match than the server answers for (1,024).
	errTooMany = errors.New("too many subjects")
	// errHidden says that a message was found whose header ends before what the server says of it: nobody of ours wrote it (foreign), and asking again changes nothing.
	errHidden = errors.New("a message hides where it is kept")
)

const directPrefix = "$JS.API.DIRECT.GET."

// getLast reads the newest message of subject; errNoMessage when there is none.
func (c *Conn) getLast(ctx context.Context, stream, subject string) (stored, error) {
	ctx, cancel := opContext(ctx)
	defer cancel()
	for n := 1; ; n++ {
		m, err := c.getOnce(ctx, directPrefix+stream+"."+subject, nil)
		if err == nil || errors.Is(err, errNoMessage) {
			return m, err
		}
		if errors.Is(err, errHidden) {
			return m, api.Errorf(api.CodeInternal, "read %s: %w", stream, err)
		}
		if perr := pause(ctx, n); perr != nil {
			return stored{}, busError("read "+stream, errors.Join(perr, err))
		}
	}
}

func (c *Conn) getOnce(ctx context.Context, subject string, body []byte) (stored, error) {
	ctx, cancel := context.WithTimeout(ctx, c.attempt)
	defer cancel()
	r, err := c.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Data: body})
	if err != nil {
		return stored{}, err
	}
	if err := directStatus(r); err != nil {
		return stored{}, err
	}
	return parseStored(r)
}

// directStatus returns the error that a direct get's answer carries instead of a message.
func directStatus(m *nats.Msg) error {
	switch status := m.Header.Get(headerStatus); status {
	case "", "204":
		return nil
	case "404":
		return errNoMessage
	case "413":
		return errTooMany
	case "503":
		return nats.ErrNoResponders
	default:
		return fmt.Errorf("direct get: status %s %s", status, m.Header.Get("Description"))
	}
}

func parseStored(m *nats.Msg) (stored, error) {
	// What the server says comes last: a message that is a copy of another says the same of that.
	seq, err := strconv.ParseUint(lastOf(m.Header[headerSequence]), 10, 64)
	if err != nil {
		return stored{}, fmt.Errorf("direct get: %w: %w", errHidden, err)
	}
	return stored{subject: lastOf(m.Header[headerSubject]), seq: seq, header: m.Header, data: m.Data, foreign: foreign(m, asCopy)}, nil
}

func lastOf(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// batchRequest asks for up to Batch messages of NextFor (a subject, wildcards allowed) from
// sequence Seq on.
type batchRequest struct {
	Seq      uint64 `json:"seq"`
	NextFor  string `json:"next_by_subj,omitempty"`
	Batch    int    `json:"batch"`
	MaxBytes int    `json:"max_bytes,omitempty"`
	// NewestFor, in place of NextFor, asks for the newest message of each subject that matches, where that is not before Seq.
	NewestFor []string `json:"multi_last,omitempty"`
}

// maxReadBytes bounds the payload of one batched read.
const maxReadBytes = 8 << 20

// getBatch reads up to limit messages of subject with a sequence of at least from, in order,
// and calls f for each. more says that others follow. When an attempt fails midway the next
// one goes on behind what f has seen.
func (c *Conn) getBatch(ctx context.Context, stream, subject string, from uint64, limit int, f func(stored) error) (more bool, err error) {
	return c.getPage(ctx, stream, batchRequest{NextFor: subject, Batch: limit}, from, f)
}

// getNewest is getBatch of the newest message of each subject that matches, however many there are, where that is at from or later.
//
// A server finds these by subject. What comes next on subjects with a wildcard it seeks among all messages of a stream that are as new, if that stream
// has many subjects: readers that each ask for their own part would cost the square of their number, and keep writers waiting.
func (c *Conn) getNewest(ctx context.Context, stream, subject string, from uint64, limit int, f func(stored) error) (more bool, err error) {
	more, err = c.getPage(ctx, stream, batchRequest{NewestFor: []string{subject}, Batch: limit}, from, f)
	if errors.Is(err, errTooMany) {
		return c.getBatch(ctx, stream, subject, from, limit, f)
	}
	return more, err
}

// getFirst reads the first, from a sequence on, of the newest messages of subjects; errNoMessage when none is so new. It asks once.
func (c *Conn) getFirst(ctx context.Context, stream string, subjects []string, from uint64) (stored, error) {
	body, err := json.Marshal(batchRequest{Seq: from, Batch: 1, NewestFor: subjects})
	if err != nil {
		return stored{}, err
	}
	return c.getOnce(ctx, directPrefix+stream, body) // what follows the answer's first message, that it was all, is dropped
}

// getPage reads what req asks for, from a sequence on.
func (c *Conn) getPage(ctx context.Context, stream string, req batchRequest, from uint64, f func(stored) error) (more bool, err error) {
	ctx, cancel := opContext(ctx)
	defer cancel()
	from, limit := max(from, 1), req.Batch
	req.MaxBytes = maxReadBytes
	for n := 1; ; n++ {
		got := 0
		var stop error
		req.Seq, req.Batch = from, limit
		pending, err := c.getBatchOnce(ctx, stream, req, func(m stored) error {
			got++
			from = m.seq + 1
			stop = f(m)
			return stop
		})
		switch {
		case err == nil:
			return pending > 0, nil
		case stop != nil:
			return false, stop
		case errors.Is(err, errNoMessage):
			return false, nil
		case errors.Is(err, errTooMany):
			return false, err
		case errors.Is(err, errHidden):
			return false, api.Errorf(api.CodeInternal, "read %s: %w", stream, err)
		}
		if limit -= got; limit <= 0 {
			return true, nil // all that was asked for; whether others follow is not known
		}
		if perr := pause(ctx, n); perr != nil {
			return false, busError("read "+stream, errors.Join(perr, err))
		}
	}
}

// getBatchOnce runs the multi-message protocol: one request, then messages, each with the
// sequence of the one before it in Nats-Last-Sequence, then a 204 that says how many follow.
func (c *Conn) getBatchOnce(ctx context.Context, stream string, req batchRequest, f func(stored) error) (pending uint64, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return 0, err
	}
	inbox := c.nc.NewInbox()
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return 0, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	// The answer is bounded by the request.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return 0, err
	}
	if err := c.nc.PublishRequest(directPrefix+stream, inbox, body); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.attempt)
	defer cancel()
	var last uint64
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return 0, err
		}
		if err := directStatus(m); err != nil {
			return 0, err
		}
		before, err := strconv.ParseUint(lastOf(m.Header[headerLastSequence]), 10, 64)
		if len(m.Header[headerLastSequence]) == 0 {
			return 0, fmt.Errorf("direct get: %w", errHidden)
		}
		if err != nil || before != last {
			return 0, api.Errorf(api.CodeUnavailable, "direct get: a message of the answer is missing")
		}
		if m.Header.Get(headerStatus) == "204" {
			return strconv.ParseUint(m.Header.Get(headerNumPending), 10, 64)
		}
		s, err := parseStored(m)
		if err != nil {
			return 0, err
		}
		last = s.seq
		if err := f(s); err != nil {
			return 0, err
		}
	}
}
