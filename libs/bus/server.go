package bus

import (
	"context"
	"log/slog"
)

// ServerConfig says how to run an embedded NATS server.
type ServerConfig struct {
	Dir     string // JetStream's store; created with mode 0700
	Listen  string // "127.0.0.1:4222"; port 0: any free one; empty: no socket, in-process only
	Keyring *Keyring
	Logger  *slog.Logger
	// MaxStore bounds the disk in bytes; zero: 3/4 of what is free.
	MaxStore int64
}

// Server is an embedded NATS server with JetStream and the accounts of a Keyring. It
// refuses every client without a credential that the Keyring (or one of its signing keys)
// signed, in process or not.
type Server struct{}

// StartServer starts a server and returns when it accepts clients and JetStream has
// recovered its streams. Listen's address may be held by a server that was just killed:
// it is retried until ctx ends.
func StartServer(ctx context.Context, cfg ServerConfig) (*Server, error) { panic("todo") }

// URL returns the address for clients, "nats://127.0.0.1:port"; empty without a socket.
func (s *Server) URL() string { panic("todo") }

// Close stops the server, flushes the store and waits.
func (s *Server) Close() { panic("todo") }
