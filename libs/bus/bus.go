// Package bus is agentyard's use of NATS JetStream: connections with scoped
// credentials, an embedded server, and the three ways to keep something: [Ledger] for
// state, [Log] for a session's events, [Lease] for who may act alone.
//
// It is the only home of nats.go and nats-server together with libs/rpc.
package bus

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config says how to reach the bus.
type Config struct {
	URL         string  // "nats://host:4222", comma-separated for a cluster; ignored with InProcess
	InProcess   *Server // connect without a socket
	Credentials []byte  // a NATS .creds file's content: user JWT and seed
	Name        string  // of the connection, as seen by operators: the service's name
	Logger      *slog.Logger
}

// Conn is one connection to the bus. It reconnects for ever; while it is away calls fail
// with unavailable when their deadline passes.
type Conn struct {
	nc *nats.Conn
	js jetstream.JetStream
}

// Connect returns a connection at once, whether or not the bus can be reached yet
// (services start in any order); Ready tells. It fails only for a bad configuration.
func Connect(cfg Config) (*Conn, error) { panic("todo") }

// Ready reports nil when the connection is up and JetStream answers within ctx.
func (c *Conn) Ready(ctx context.Context) error { panic("todo") }

// Close drains the connection: handlers in flight finish, pending publishes are flushed.
func (c *Conn) Close(ctx context.Context) error { panic("todo") }

// NATS returns the underlying connection, for libs/rpc only.
func (c *Conn) NATS() *nats.Conn { return c.nc }

// Publish sends data on a core subject (no persistence).
func (c *Conn) Publish(subject string, data []byte) error { panic("todo") }

// Subscribe calls f for each core message on subject, one at a time, until ctx ends; f must
// not block. When the subscription overflows its bound, messages are dropped and onDrop is
// called (it may be nil); it is also called after a reconnect, because messages may have been missed. It returns when the server has confirmed the subscription, so that
// nothing published after the return is missed.
func (c *Conn) Subscribe(ctx context.Context, subject string, f func(subject string, header Header, data []byte), onDrop func()) error {
	panic("todo")
}

// Header holds a message's headers.
type Header = nats.Header

// OpTimeout bounds a bus call whose context has no deadline of its own.
const OpTimeout = 5 * time.Second
