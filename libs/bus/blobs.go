package bus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"agentyard.dev/libs/api"
)

// Blobs keeps files that belong to something else's owner, for instance a task's artifacts: a stream with a subject per blob,
// whose messages are its parts in order. A blob is written once, under a name of its own, and never changed; who keeps the returned [Blob] can
// read it, and what is nowhere kept is waste that goes with its owner (Purge).
type Blobs struct{ c *Conn }

// Blob says where a blob is and what it must be when it is read.
type Blob struct {
	ID     string `json:"id"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hexadecimal
}

// BlobsConfig bounds what is kept.
type BlobsConfig struct {
	MaxAge   time.Duration // zero: for ever (until Purge)
	MaxBytes int64         // of all together; zero: no bound. When it is reached, Put is exhausted.
	Replicas int
}

const (
	blobPart      = 512 << 10 // of one message; a purge or a slow reader never holds more
	headerBlobEnd = "Yard-Blob-Sha256"
)

// OpenBlobs makes or updates the stream. It waits for the bus until ctx ends.
func OpenBlobs(ctx context.Context, c *Conn, cfg BlobsConfig) (*Blobs, error) {
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = -1
	}
	_, err := c.openStream(ctx, jetstream.StreamConfig{
		Name:        blobStream,
		Subjects:    []string{blobPrefix + "*.*.*"},
		Storage:     jetstream.FileStorage,
		Replicas:    max(cfg.Replicas, c.replicas),
		MaxAge:      cfg.MaxAge,
		MaxBytes:    cfg.MaxBytes,
		Discard:     jetstream.DiscardNew,
		AllowDirect: true,
		DenyDelete:  true,
		Duplicates:  duplicatesWindow(cfg.MaxAge),
	})
	if err != nil {
		return nil, fmt.Errorf("open blobs: %w", err)
	}
	return ReadBlobs(c), nil
}

// ReadBlobs returns the blobs without touching the stream's configuration.
func ReadBlobs(c *Conn) *Blobs { return &Blobs{c: c} }

// Put keeps what r holds, at most limit bytes, for owner. Errors: exhausted when r holds more or no space is left; what r returns.
// What was written of a blob that failed goes with its owner.
func (b *Blobs) Put(ctx context.Context, tenant, owner string, r io.Reader, limit int64) (Blob, error) {
	if err := checkTokens(tenant, owner); err != nil {
		return Blob{}, err
	}
	blob := Blob{ID: nuid.Next()}
	subject := blobPrefix + tenant + "." + owner + "." + blob.ID
	sum, part := sha256.New(), make([]byte, blobPart)
	var last uint64
	for n := 0; ; n++ {
		size, ended, err := readPart(r, part)
		if err != nil {
			return Blob{}, err
		}
		if blob.Size += int64(size); blob.Size > limit {
			return Blob{}, api.Errorf(api.CodeExhausted, "it is larger than the %d bytes that are kept", limit)
		}
		sum.Write(part[:size])
		id := blob.ID + ":" + strconv.Itoa(n)
		m := &nats.Msg{Subject: subject, Data: part[:size], Header: nats.Header{headerWrite: {id}}}
		if ended {
			blob.SHA256 = hex.EncodeToString(sum.Sum(nil))
			m.Header[headerBlobEnd] = []string{blob.SHA256}
		}
		ack, err := b.c.conditional(ctx, m, last, b.c.written(blobStream, subject, last, id))
		if err != nil {
			return Blob{}, fmt.Errorf("keep a blob: %w", err)
		}
		if last = ack.Seq; ended {
			return blob, nil
		}
	}
}

// readPart fills part unless r ends before. Unlike io.ReadFull it tells r's end from io.ErrUnexpectedEOF, with which an HTTP body says that it broke off.
func readPart(r io.Reader, part []byte) (n int, ended bool, err error) {
	for n < len(part) && err == nil {
		var more int
		more, err = r.Read(part[n:])
		n += more
	}
	if err == io.EOF {
		return n, true, nil
	}
	return n, false, err
}

// Get writes blob to w and checks it. Errors: not_found when it is no longer kept; internal when it is not what was kept, which
// shows only when all of it was written; what w returns.
func (b *Blobs) Get(ctx context.Context, tenant, owner string, blob Blob, w io.Writer) error {
	if err := checkTokens(tenant, owner); err != nil {
		return err
	}
	if err := checkToken("blob", blob.ID); err != nil {
		return err
	}
	subject := blobPrefix + tenant + "." + owner + "." + blob.ID
	sum, size, ended := sha256.New(), int64(0), ""
	for from, more := uint64(1), true; more && ended == ""; {
		var err error
		var bad error
		more, err = b.c.getBatch(ctx, blobStream, subject, from, 4, func(m stored) error {
			from = m.seq + 1
			size += int64(len(m.data))
			sum.Write(m.data)
			ended = m.header.Get(headerBlobEnd)
			_, bad = w.Write(m.data)
			return bad
		})
		if err != nil {
			return fmt.Errorf("read a blob: %w", err)
		}
	}
	switch {
	case size == 0 && ended == "":
		return api.Errorf(api.CodeNotFound, "the file is no longer kept")
	case ended != blob.SHA256 || size != blob.Size || hex.EncodeToString(sum.Sum(nil)) != blob.SHA256:
		return api.Errorf(api.CodeInternal, "blob %s is not what was kept", blob.ID)
	}
	return nil
}

// Purge erases all blobs of an owner.
func (b *Blobs) Purge(ctx context.Context, tenant, owner string) error {
	if err := checkTokens(tenant, owner); err != nil {
		return err
	}
	return b.c.purge(ctx, blobStream, blobPrefix+tenant+"."+owner+".*", 0)
}

// Remove erases one blob of an owner. Removing what is gone is success.
func (b *Blobs) Remove(ctx context.Context, tenant, owner, id string) error {
	if err := checkTokens(tenant, owner); err != nil {
		return err
	}
	if err := checkToken("blob", id); err != nil {
		return err
	}
	return b.c.purge(ctx, blobStream, blobPrefix+tenant+"."+owner+"."+id, 0)
}
