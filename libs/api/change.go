package api

import "time"

// Change is one entry of a ledger: who did what and why, and the state after it.
type Change[T any] struct {
	Rev     uint64    `json:"rev"` // the stream sequence; 0 inside the ledger itself
	At      time.Time `json:"at"`
	Actor   string    `json:"actor"` // a principal's ID, or "service:<name>"
	Verb    string    `json:"verb"`  // "create", "start", "delete", …
	Reason  string    `json:"reason,omitempty"`
	Deleted bool      `json:"deleted,omitempty"`
	State   T         `json:"state"`
}
