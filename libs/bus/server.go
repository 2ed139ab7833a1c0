package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"

	"agentyard.dev/libs/api"
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

// MaxPayload bounds one message on an embedded server, in bytes.
const MaxPayload = 4 << 20

const (
	// JetStream keeps no stream in memory here; consumers' state is small.
	serverMaxMemory = 256 << 20
	// syncEvery bounds what a power failure can take. A killed process loses nothing: each
	// write has reached the kernel when it is acknowledged.
	syncEvery  = 10 * time.Second
	maxBatches = 4096
	// letIn is how long a client may need to say who it is. When thousands come back at one moment, most of it is waiting for their turn.
	letIn         = crowdTimeout
	startRetry    = 50 * time.Millisecond
	startPatience = 30 * time.Second // of one try: recovering a large store takes time
)

// Server is an embedded NATS server with JetStream and the accounts of a Keyring. It
// refuses every client without a credential that the Keyring (or one of its signing keys)
// signed, in process or not.
type Server struct {
	ns *server.Server
}

// StartServer starts a server and returns when it accepts clients and JetStream has
// recovered its streams. Listen's address may be held by a server that was just killed:
// it is retried until ctx ends.
func StartServer(ctx context.Context, cfg ServerConfig) (*Server, error) {
	opts, err := serverOptions(cfg)
	if err != nil {
		return nil, err
	}
	logger := cfg.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	for {
		ns, err := tryServer(ctx, opts.Clone(), logger)
		if err == nil {
			return &Server{ns: ns}, nil
		}
		if !errors.Is(err, errListen) {
			return nil, fmt.Errorf("start bus server: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, api.Errorf(api.CodeUnavailable, "start bus server: %w", err)
		case <-time.After(startRetry):
		}
	}
}

func serverOptions(cfg ServerConfig) (*server.Options, error) {
	if cfg.Keyring == nil {
		return nil, api.Invalid("/keyring", "is required")
	}
	if cfg.Dir == "" {
		return nil, api.Invalid("/dir", "is required")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make bus directory: %w", err)
	}
	trust, err := cfg.Keyring.trust()
	if err != nil {
		return nil, fmt.Errorf("prepare bus accounts: %w", err)
	}
	opts := &server.Options{
		ServerName:         "agentyard",
		DontListen:         cfg.Listen == "",
		NoSigs:             true,
		MaxPayload:         MaxPayload,
		JetStream:          true,
		StoreDir:           cfg.Dir,
		JetStreamMaxMemory: serverMaxMemory,
		JetStreamMaxStore:  cfg.MaxStore,
		SyncInterval:       syncEvery,
		AuthTimeout:        letIn.Seconds(),
		// The server's first ping would come two seconds after a client did, answered or not, and a client that waits for its first answer takes it for a refusal.
		DisableShortFirstPing: true,
		TrustedOperators:      []*jwt.OperatorClaims{trust.operator},
		SystemAccount:         trust.systemID,
		AccountResolver:       trust.resolver,
	}
	if cfg.Listen != "" {
		host, port, err := net.SplitHostPort(cfg.Listen)
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "listen address %q: %w", cfg.Listen, err)
		}
		if opts.Port, err = strconv.Atoi(port); err != nil || opts.Port < 0 || opts.Port > 65535 {
			return nil, api.Errorf(api.CodeInvalid, "listen address %q: bad port", cfg.Listen)
		}
		opts.Host = host
		if opts.Port == 0 {
			opts.Port = server.RANDOM_PORT
		}
	}
	return opts, nil
}

// errListen is the cause when the address is taken.
var errListen = errors.New("listen")

func tryServer(ctx context.Context, opts *server.Options, logger *slog.Logger) (*server.Server, error) {
	if !opts.DontListen && opts.Port != server.RANDOM_PORT {
		// The server treats a taken address as fatal after it has opened its store; ask first.
		l, err := net.Listen("tcp", net.JoinHostPort(opts.Host, strconv.Itoa(opts.Port))) //nolint:noctx // a probe of a local port
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errListen, err)
		}
		if err := l.Close(); err != nil {
			return nil, err
		}
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, err
	}
	adapter := &serverLog{log: logger, fatal: make(chan struct{})}
	ns.SetLoggerV2(adapter, false, false, false)
	started := make(chan bool, 1)
	go func() {
		ns.Start()
		started <- ns.ReadyForConnections(startPatience)
	}()
	stop := func() {
		ns.Shutdown()
		ns.WaitForShutdown()
	}
	select {
	case ok := <-started:
		if !ok {
			stop()
			return nil, adapter.reason("not ready in time")
		}
	case <-adapter.fatal:
		stop()
		<-started
		err := adapter.reason("fatal")
		if strings.Contains(err.Error(), "listening on port") { // taken since it was asked for
			err = fmt.Errorf("%w: %w", errListen, err)
		}
		return nil, err
	case <-ctx.Done():
		stop()
		<-started
		return nil, api.Errorf(api.CodeUnavailable, "%w", ctx.Err())
	}
	if !ns.JetStreamEnabled() {
		stop()
		return nil, adapter.reason("JetStream could not start")
	}
	return ns, nil
}

// URL returns the address for clients, "nats://127.0.0.1:port"; empty without a socket.
func (s *Server) URL() string {
	if addr := s.ns.Addr(); addr != nil {
		return "nats://" + addr.String()
	}
	return ""
}

// Close stops the server, flushes the store and waits.
func (s *Server) Close() {
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
}

// serverLog passes the server's log on. What it calls fatal is kept instead of ending the
// process.
type serverLog struct {
	log *slog.Logger

	mu    sync.Mutex
	last  string
	once  sync.Once
	fatal chan struct{}
}

func (l *serverLog) reason(what string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == "" {
		return errors.New(what)
	}
	return fmt.Errorf("%s: %s", what, l.last)
}

func (l *serverLog) keep(msg string) {
	l.mu.Lock()
	l.last = msg
	l.mu.Unlock()
}

func (l *serverLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *serverLog) Debugf(format string, v ...any)  {}
func (l *serverLog) Tracef(format string, v ...any)  {}
func (l *serverLog) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l *serverLog) Errorf(format string, v ...any) {
	msg := fmt.Sprintf(format, v...)
	l.keep(msg)
	l.log.Error(msg)
}
func (l *serverLog) Fatalf(format string, v ...any) {
	msg := fmt.Sprintf(format, v...)
	l.keep(msg)
	l.log.Error(msg)
	l.once.Do(func() { close(l.fatal) })
}
