package gateway

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
)

// ticketLife is how long a ticket waits for its use: a page opens its stream at once.
const ticketLife = 30 * time.Second

const ticketBytes = 32

const maxTicketBody = 1 << 10 // there is nothing to say

// ticket is what the TICKETS ledger keeps: under the ticket's hash, the credential that it stands for, sealed with the
// ticket itself. Whoever reads the ledger can neither use the ticket nor learn the credential.
type ticket struct {
	Sealed  []byte    `json:"sealed,omitempty"`
	Expires time.Time `json:"expires"`
	Used    bool      `json:"used,omitempty"`
}

// tickets are single-use, across all replicas: the use is a write at the ticket's revision.
type tickets struct {
	ledger atomic.Pointer[bus.Ledger[ticket]]
}

// TicketResponse is the answer to POST /api/v1/tickets.
type TicketResponse struct {
	Ticket    string `json:"ticket"`
	ExpiresIn int    `json:"expires_in"` // seconds
}

func (t *tickets) open() (*bus.Ledger[ticket], error) {
	if l := t.ledger.Load(); l != nil {
		return l, nil
	}
	return nil, &api.Error{Code: api.CodeUnavailable, Detail: "tickets are not ready yet; try again", RetryAfter: retrySoon}
}

// issue makes a ticket for credential.
func (t *tickets) issue(ctx context.Context, principal, credential string) (string, error) {
	l, err := t.open()
	if err != nil {
		return "", err
	}
	var b [ticketBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	sealed, err := seal(sealKey("ticket", b[:]), []byte(credential))
	if err != nil {
		return "", err
	}
	meta := bus.Meta{Actor: principal, Verb: "issue"}
	if _, err := l.Create(ctx, ticketKey(b[:]), meta, ticket{Sealed: sealed, Expires: time.Now().Add(ticketLife)}); err != nil {
		return "", fmt.Errorf("keep ticket: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b[:]), nil
}

// redeem uses up the ticket raw and returns its credential.
func (t *tickets) redeem(ctx context.Context, raw string) (string, error) {
	bad := api.Errorf(api.CodeUnauthenticated, "the ticket is unknown, used or expired; get another from POST /api/v1/tickets")
	b, err := base64.RawURLEncoding.Strict().DecodeString(raw)
	if err != nil || len(b) != ticketBytes {
		return "", bad
	}
	l, err := t.open()
	if err != nil {
		return "", err
	}
	key := ticketKey(b)
	e, err := l.Get(ctx, key)
	switch {
	case api.CodeOf(err) == api.CodeNotFound:
		return "", bad
	case err != nil:
		return "", fmt.Errorf("read ticket: %w", err)
	case e.State.Used || time.Now().After(e.State.Expires):
		return "", bad
	}
	_, err = l.UpdateAt(ctx, key, e.Rev, bus.Meta{Actor: "service:gateway", Verb: "use"}, func(t ticket) (ticket, error) {
		return ticket{Expires: t.Expires, Used: true}, nil
	})
	switch {
	case api.CodeOf(err) == api.CodeConflict, api.CodeOf(err) == api.CodeNotFound:
		return "", bad
	case err != nil:
		return "", fmt.Errorf("use ticket: %w", err)
	}
	cred, err := unseal(sealKey("ticket", b), e.State.Sealed)
	if err != nil {
		return "", bad
	}
	return string(cred), nil
}

func ticketKey(b []byte) bus.Key {
	sum := sha256.Sum256(b)
	return bus.Key{Tenant: "gateway", ID: hex.EncodeToString(sum[:])}
}

// handleTicket is POST /api/v1/tickets. A repeat makes another ticket, whatever its Idempotency-Key: one is of no use twice, and gone after ticketLife.
func (g *Gateway) handleTicket(w http.ResponseWriter, r *http.Request, c *caller) {
	if err := bound(w, r, maxTicketBody); err != nil {
		fail(w, r, err)
		return
	}
	if err := rpc.ReadBody(w, r, maxTicketBody, &struct{}{}); err != nil {
		fail(w, r, err)
		return
	}
	raw, err := g.tickets.issue(r.Context(), c.ID, c.credential)
	if err != nil {
		fail(w, r, err)
		return
	}
	rpc.WriteJSON(w, r, http.StatusCreated, TicketResponse{Ticket: raw, ExpiresIn: int(ticketLife / time.Second)})
}

// sealKey derives the key that seals one purpose's secret from what its holder presents.
func sealKey(purpose string, secret []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte("agentyard gateway " + purpose + "\x00"))
	h.Write(secret)
	return [32]byte(h.Sum(nil))
}

// seal encrypts with AES-256-GCM; the nonce goes first.
func seal(key [32]byte, plain []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	_, _ = rand.Read(nonce)
	return aead.Seal(nonce, nonce, plain, nil), nil
}

func unseal(key [32]byte, sealed []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	if len(sealed) < aead.NonceSize() {
		return nil, fmt.Errorf("sealed text of %d bytes is too short", len(sealed))
	}
	return aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], nil)
}

func newAEAD(key [32]byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("cipher: %w", err)
	}
	return cipher.NewGCM(block)
}
