package bus

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	json "github.com/go-json-experiment/json/v1"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"agentyard.dev/libs/api"
)

// Headers of stored messages.
const (
	headerCreated = "Yard-Created" // ledger: revision of the entity's first change
	headerWrite   = "Yard-Write"   // ledger: names one write, to recognise it later
	headerEpoch   = "Yard-Epoch"   // ledger: which stream it was written to
	headerWriter  = "Yard-Writer"  // log: <writer id>:<n> of the agent's side
)

// Headers and error codes of JetStream that this package depends on.
const (
	headerExpectedLast = "Nats-Expected-Last-Subject-Sequence"
	headerMsgID        = "Nats-Msg-Id"
	headerSequence     = "Nats-Sequence"
	headerLastSequence = "Nats-Last-Sequence"
	headerSubject      = "Nats-Subject"
	headerNumPending   = "Nats-Num-Pending"
	headerTimeStamp    = "Nats-Time-Stamp"
	headerStatus       = "Status"

	errWrongLastSequence         = jetstream.ErrorCode(10071)
	errWrongLastSequenceConstant = jetstream.ErrorCode(10164)
	errInsufficientResources     = jetstream.ErrorCode(10023)
)

// pubAck is JetStream's answer to a publish.
type pubAck struct {
	Seq       uint64              `json:"seq"`
	Duplicate bool                `json:"duplicate"`
	Error     *jetstream.APIError `json:"error"`
}

// errWrongSequence says that the condition of a publish did not hold.
var errWrongSequence = errors.New("wrong last sequence")

// attemptTimeout is how long one try of a publish waits for its answer before it is repeated
// under the same condition: the answer may be lost with a connection.
const attemptTimeout = 2 * time.Second

const retryPause = 25 * time.Millisecond // doubled up to maxRetryPause, with jitter
const maxRetryPause = 500 * time.Millisecond

// pause waits before try n (1, 2, …) of something, or for ctx's end.
func pause(ctx context.Context, n int) error {
	d := min(retryPause<<min(max(n-1, 0), 8), maxRetryPause)
	d = d/2 + rand.N(d) //nolint:gosec // jitter
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// publishOnce sends m and waits for its acknowledgement. A result of errWrongSequence means
// that it was not written; an *api.Error that it was refused for good; any other that its
// fate is unknown.
func (c *Conn) publishOnce(ctx context.Context, m *nats.Msg) (pubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, c.attempt)
	defer cancel()
	r, err := c.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		if errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject) {
			return pubAck{}, busError("publish", err)
		}
		return pubAck{}, err
	}
	return parseAck(r.Data)
}

func parseAck(data []byte) (pubAck, error) {
	// The plain answer, {"stream":"NAME","seq":N}, is met once per write.
	if rest, ok := bytes.CutSuffix(data, []byte("}")); ok {
		if i := bytes.LastIndexByte(rest, ':'); i > 0 && bytes.HasSuffix(rest[:i], []byte(`"seq"`)) {
			if seq, err := strconv.ParseUint(string(bytes.TrimSpace(rest[i+1:])), 10, 64); err == nil && seq > 0 {
				return pubAck{Seq: seq}, nil
			}
		}
	}
	var ack pubAck
	if err := json.Unmarshal(data, &ack); err != nil {
		return pubAck{}, err
	}
	if ack.Error != nil {
		return pubAck{}, ackError(ack.Error)
	}
	return ack, nil
}

// ackError sorts a refusal: the condition, a full disk, or something that may pass.
func ackError(e *jetstream.APIError) error {
	switch e.ErrorCode {
	case errWrongLastSequence, errWrongLastSequenceConstant:
		return errWrongSequence
	case errInsufficientResources:
		return api.Errorf(api.CodeExhausted, "the bus has no space left: %w", e)
	}
	if e.Code >= 400 && e.Code < 500 {
		return api.Errorf(api.CodeInternal, "the bus refused a message: %w", e)
	}
	return e
}

// conditional writes m on the condition that subject's last sequence is expected, and repeats
// until its fate is known or ctx ends. mine asks whether the message that follows expected on
// the subject is this very write, and its sequence; it is called when the condition fails after
// a try of unknown fate. errWrongSequence says that another writer was faster.
func (c *Conn) conditional(ctx context.Context, m *nats.Msg, expected uint64, mine func(context.Context) (seq uint64, is bool, err error)) (pubAck, error) {
	m.Header.Set(headerExpectedLast, strconv.FormatUint(expected, 10))
	unknown := false
	for n := 1; ; n++ {
		if n == 2 { // the first try has a deadline of its own, and hardly ever is there another
			var cancel context.CancelFunc
			ctx, cancel = opContext(ctx)
			defer cancel()
		}
		ack, err := c.publishOnce(ctx, m)
		if err == nil {
			return ack, nil
		}
		var refused *api.Error
		switch {
		case errors.Is(err, errWrongSequence):
			if !unknown {
				return pubAck{}, errWrongSequence
			}
			seq, is, err := mine(ctx)
			if err == nil && is {
				return pubAck{Seq: seq}, nil
			}
			if err == nil {
				return pubAck{}, errWrongSequence
			}
		case errors.As(err, &refused):
			return pubAck{}, refused
		case errors.Is(err, nats.ErrNoResponders):
			// Nobody serves the stream right now: certainly not written by this try.
		default:
			unknown = true
		}
		if perr := pause(ctx, n); perr != nil {
			return pubAck{}, busError("publish", errors.Join(perr, err))
		}
	}
}

// written answers whether the message that follows expected on subject is the write called id.
func (c *Conn) written(stream, subject string, expected uint64, id string) func(context.Context) (uint64, bool, error) {
	return func(ctx context.Context) (uint64, bool, error) {
		var next stored
		_, err := c.getBatch(ctx, stream, subject, expected+1, 1, func(m stored) error {
			next = m
			return nil
		})
		return next.seq, next.header.Get(headerWrite) == id, err
	}
}
