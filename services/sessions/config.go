package sessions

import (
	"flag"
	"time"
)

// Config is how the service behaves. The zero value of a field is its default (DefaultConfig).
type Config struct {
	IdleTimeout  time.Duration // of sessions whose request and profile say nothing; an idle session is paused
	TTL          time.Duration // likewise; a session that is older is stopped
	StartTimeout time.Duration // from start to running, cloning included
	StopGrace    time.Duration // for a runner to end by itself
	MaxPerUser   int           // sessions that have not ended
	MaxPerTenant int
	MaxStarting  int           // sessions that are being started, of all tenants; a request above gets exhausted
	MaxRestarts  int           // of a runner that dies again and again; then the session has failed
	RestartReset time.Duration // a runner that lived so long begins a new count
	Retention    time.Duration // of an ended session's history, log and, if it failed, workspace
	// AllowPrivateRepositories permits cloning from loopback and private addresses and from file:// URLs.
	AllowPrivateRepositories bool
	// Silence is how long a runner whose agent works may say nothing before another takes its place; 0: for ever. It is some minutes: that a
	// runner still works is written every minute.
	Silence time.Duration
	// Sweep is how often ttl, idle timeout, start timeout and retention are looked at.
	Sweep time.Duration
	// Reconcile is how often all that the runtime has is compared with the ledger. What is seen to be wrong twice is mended.
	Reconcile time.Duration
	// Workers is how many sessions are started, paused and stopped at once.
	Workers int
	// SecretKeysFile holds the keys that seal secrets and credentials (seal.ParseKeys), the one that seals first. Empty: a key that the
	// yard's session issuer gives.
	SecretKeysFile string
	// Replicas of the ledgers and the log on a bus of several servers.
	Replicas int
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		IdleTimeout:  time.Hour,
		StartTimeout: 2 * time.Minute,
		StopGrace:    30 * time.Second,
		MaxPerUser:   50,
		MaxPerTenant: 1000,
		MaxStarting:  1000,
		MaxRestarts:  5,
		RestartReset: 5 * time.Minute,
		Retention:    30 * 24 * time.Hour,
		Silence:      3 * time.Minute,
		Sweep:        5 * time.Second,
		Reconcile:    10 * time.Second,
		Workers:      64,
		Replicas:     1,
	}
}

// Register adds the flags of c to fs with c's current values as defaults.
func (c *Config) Register(fs *flag.FlagSet) {
	fs.DurationVar(&c.IdleTimeout, "sessions.idle-timeout", c.IdleTimeout, "pause a session that was idle for so long, unless it or its profile says otherwise; 0: never")
	fs.DurationVar(&c.TTL, "sessions.ttl", c.TTL, "stop a session that is so old, unless it or its profile says otherwise; 0: never")
	fs.DurationVar(&c.StartTimeout, "sessions.start-timeout", c.StartTimeout, "how long a session may take from start to running")
	fs.DurationVar(&c.StopGrace, "sessions.stop-grace", c.StopGrace, "how long a stopped session may take to end by itself")
	fs.IntVar(&c.MaxPerUser, "sessions.max-per-user", c.MaxPerUser, "sessions of one user that have not ended; 0: no bound")
	fs.IntVar(&c.MaxPerTenant, "sessions.max-per-tenant", c.MaxPerTenant, "sessions of one tenant that have not ended; 0: no bound")
	fs.IntVar(&c.MaxStarting, "sessions.max-starting", c.MaxStarting, "sessions that are being started at once, of all tenants; a request for one more is told to come again; 0: no bound")
	fs.IntVar(&c.MaxRestarts, "sessions.max-restarts", c.MaxRestarts, "restarts of a session's runner that keeps dying before the session has failed")
	fs.DurationVar(&c.RestartReset, "sessions.restart-reset", c.RestartReset, "a runner that lived so long begins a new count of restarts")
	fs.DurationVar(&c.Retention, "sessions.retention", c.Retention, "keep the history and the log of an ended session for so long; 0: for ever")
	fs.BoolVar(&c.AllowPrivateRepositories, "sessions.allow-private-repositories", c.AllowPrivateRepositories, "clone from loopback and private addresses and from file:// URLs")
	fs.StringVar(&c.SecretKeysFile, "sessions.secret-keys-file", c.SecretKeysFile, "`file` with the keys that seal secrets, 32 bytes in base64 a line, the newest first; empty: the yard's own key")
	fs.DurationVar(&c.Silence, "sessions.silence", c.Silence, "a runner at work that said nothing for so long has hung, and another takes its place; some minutes, 0: never")
	fs.DurationVar(&c.Sweep, "sessions.sweep", c.Sweep, "how often timeouts and retention are looked at")
	fs.DurationVar(&c.Reconcile, "sessions.reconcile", c.Reconcile, "how often what the runtime has is compared with the ledger; what is wrong twice is mended")
	fs.IntVar(&c.Workers, "sessions.workers", c.Workers, "sessions that are started or stopped at once")
	fs.IntVar(&c.Replicas, "sessions.replicas", c.Replicas, "copies of the ledgers and the log on a bus of several servers")
}

// withDefaults fills in what must not be zero.
func (c Config) withDefaults() Config {
	d := DefaultConfig()
	for field, def := range map[*time.Duration]time.Duration{
		&c.StartTimeout: d.StartTimeout, &c.StopGrace: d.StopGrace, &c.RestartReset: d.RestartReset, &c.Sweep: d.Sweep,
		&c.Reconcile: d.Reconcile,
	} {
		if *field <= 0 {
			*field = def
		}
	}
	if c.Workers <= 0 {
		c.Workers = d.Workers
	}
	if c.Replicas <= 0 {
		c.Replicas = d.Replicas
	}
	return c
}
