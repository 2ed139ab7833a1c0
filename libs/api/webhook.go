package api

import (
	"encoding/json"
	"time"
)

// KindDelivery is the kind of a webhook delivery's id.
const KindDelivery Kind = 'd'

// Webhook is an address of a tenant that is told of events: those of tasks that name it in Notify, and those of its own list.
type Webhook struct {
	Name   string `json:"name"`
	Tenant string `json:"tenant"`
	Owner  string `json:"owner"`
	URL    string `json:"url"` // https
	// Events are types such as "task.succeeded", "task.*" and "schedule.paused", of everything in the tenant; empty: only
	// what names it.
	Events    []string        `json:"events,omitempty"`
	Disabled  bool            `json:"disabled,omitempty"` // nothing is sent or kept for it
	Secrets   []WebhookSecret `json:"secrets"`            // newest first; each signs each delivery
	CreatedAt time.Time       `json:"created_at"`
	Rev       uint64          `json:"rev"`
}

// Revision implements Revisioned.
func (w Webhook) Revision() uint64 { return w.Rev }

// WebhookSecret is a signing secret without itself.
type WebhookSecret struct {
	Prefix    string     `json:"prefix"` // the first characters, to recognise it
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"` // of the old one after a rotation
}

// DeliveryState is where a delivery stands.
type DeliveryState string

// The states of a delivery.
const (
	DeliveryPending   DeliveryState = "pending"   // NextAt says when it is tried
	DeliveryDelivered DeliveryState = "delivered" // the receiver answered 2xx; final
	DeliveryFailed    DeliveryState = "failed"    // given up; final, unless it is asked for again
)

// Delivery is one event on its way to one webhook. It is kept for two days.
type Delivery struct {
	ID        string        `json:"id"`
	Tenant    string        `json:"tenant"`
	Webhook   string        `json:"webhook"`
	EventID   string        `json:"event_id"` // the same at each attempt, and at each webhook
	EventType string        `json:"event_type"`
	State     DeliveryState `json:"state"`
	Attempts  int           `json:"attempts"`
	Status    int           `json:"status,omitempty"`  // the last answer's HTTP status
	Problem   string        `json:"problem,omitempty"` // why the last attempt failed; for a person
	CreatedAt time.Time     `json:"created_at"`
	NextAt    *time.Time    `json:"next_at,omitempty"`
	EndedAt   *time.Time    `json:"ended_at,omitempty"`
	Rev       uint64        `json:"rev"`
}

// Revision implements Revisioned.
func (d Delivery) Revision() uint64 { return d.Rev }

// Notice is the body of a delivery. Its type says which of the others is set.
type Notice struct {
	Type     string    `json:"type"` // "task.<state>", "schedule.paused", "ping"
	ID       string    `json:"id"`   // of the event: a receiver that has seen it passes over it
	At       time.Time `json:"at"`
	Tenant   string    `json:"tenant"`
	Task     *Task     `json:"task,omitempty"` // without prompt, command and env
	Schedule *Schedule `json:"schedule,omitempty"`
}

// DeliveryRecord is a delivery as the DELIVERIES ledger keeps it.
type DeliveryRecord struct {
	Delivery
	Body json.RawMessage `json:"body,omitempty"` // what is signed and sent; none once it has ended well
}
