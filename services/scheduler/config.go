package scheduler

import (
	"flag"
	"fmt"
	"time"

	"agentyard.dev/libs/api"
)

// Config is what an operator may choose. The zero value of a field is its default (DefaultConfig).
type Config struct {
	Shards      int           // leases over which queues are spread
	Concurrency int           // tasks of one queue at once, unless the queue says otherwise
	PerTenant   int           // likewise of one tenant in a queue; zero: no bound
	PerUser     int           // likewise of one user
	MaxWaiting  int           // tasks of one tenant that have not ended
	Timeout     time.Duration // of one attempt, unless its task or queue says otherwise
	// StartTimeout is how long an assigned task may take to begin: then the attempt is lost.
	StartTimeout time.Duration
	// InterruptGrace is how long an interrupted agent may take to end its turn before its session is stopped.
	InterruptGrace time.Duration
	// Sweep is how often sessions are looked for that no task needs any more, and tasks and files whose time is over.
	Sweep time.Duration
	// Retention is how long a task is kept after its end with its history and its files, DeadRetention how long one that failed for
	// good, ArtifactRetention how long files are, if that is less. Zero: for ever. A queue may say otherwise, but for dead letters.
	Retention         time.Duration
	DeadRetention     time.Duration
	ArtifactRetention time.Duration
	// MaxArtifacts bounds the files of one task, in bytes.
	MaxArtifacts int64
	// WebhookAllowPrivate lets webhooks lead to private addresses and by plain http.
	WebhookAllowPrivate bool
	// SecretKeysFile holds the keys that seal the signing secrets of webhooks (seal.ParseKeys), the one that seals first.
	SecretKeysFile string
	Replicas       int // of the ledgers on a bus of several servers
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		Shards: 4, Concurrency: 16, MaxWaiting: 1_000_000, Timeout: time.Hour, StartTimeout: 5 * time.Minute,
		InterruptGrace: 10 * time.Second, Sweep: 15 * time.Second, Retention: 30 * 24 * time.Hour, DeadRetention: 90 * 24 * time.Hour, MaxArtifacts: 256 << 20, Replicas: 1,
	}
}

// Register adds the flags of c to fs, each named scheduler.…, with c's current values as defaults.
func (c *Config) Register(fs *flag.FlagSet) {
	*c = c.withDefaults()
	fs.IntVar(&c.Shards, "scheduler.shards", c.Shards, "dispatchers over which queues are spread; the same for every replica")
	fs.IntVar(&c.Concurrency, "scheduler.concurrency", c.Concurrency, "tasks of one queue at once, unless the queue says otherwise")
	fs.IntVar(&c.PerTenant, "scheduler.per-tenant", c.PerTenant, "likewise tasks of one tenant; 0: no bound")
	fs.IntVar(&c.PerUser, "scheduler.per-user", c.PerUser, "likewise tasks of one user; 0: no bound")
	fs.IntVar(&c.MaxWaiting, "scheduler.max-waiting", c.MaxWaiting, "tasks of one tenant that have not ended")
	fs.DurationVar(&c.Timeout, "scheduler.timeout", c.Timeout, "of one attempt, unless its task or queue says otherwise")
	fs.DurationVar(&c.StartTimeout, "scheduler.start-timeout", c.StartTimeout, "how long an assigned task may take to begin")
	fs.DurationVar(&c.InterruptGrace, "scheduler.interrupt-grace", c.InterruptGrace, "how long an interrupted agent may take to end before its session is stopped")
	fs.DurationVar(&c.Sweep, "scheduler.sweep", c.Sweep, "how often sessions are looked for that no task needs any more, and tasks and files whose time is over")
	fs.DurationVar(&c.Retention, "scheduler.retention", c.Retention, "keep a task that has ended for so long, unless its queue says otherwise; 0: for ever")
	fs.DurationVar(&c.DeadRetention, "scheduler.dead-retention", c.DeadRetention, "likewise a task that failed for good; 0: for ever")
	fs.DurationVar(&c.ArtifactRetention, "scheduler.artifact-retention", c.ArtifactRetention, "keep the files of a task that has ended for so long, unless its queue says otherwise; 0: as long as the task")
	fs.Int64Var(&c.MaxArtifacts, "scheduler.max-artifacts", c.MaxArtifacts, "bytes of the files that one task may leave")
	fs.BoolVar(&c.WebhookAllowPrivate, "scheduler.webhook-allow-private", c.WebhookAllowPrivate, "let webhooks lead to private addresses and by plain http: when all who may make one may reach your network")
	fs.StringVar(&c.SecretKeysFile, "scheduler.secret-keys-file", c.SecretKeysFile, "file with the keys that seal the signing secrets of webhooks, 32 bytes in base64 a line, the newest first")
	fs.IntVar(&c.Replicas, "scheduler.replicas", c.Replicas, "copies of the ledgers on a bus of several servers")
}

// Validate says all that is wrong with c.
func (c Config) Validate() error {
	if c.Shards < 0 || c.Shards > maxShards {
		return api.Invalid("/scheduler.shards", "must be 1 to %d", maxShards)
	}
	for name, d := range map[string]time.Duration{"retention": c.Retention, "dead-retention": c.DeadRetention, "artifact-retention": c.ArtifactRetention} {
		if d < 0 {
			return fmt.Errorf("-scheduler.%s must not be negative", name)
		}
	}
	for name, n := range map[string]int{"concurrency": c.Concurrency, "per-tenant": c.PerTenant, "per-user": c.PerUser, "max-waiting": c.MaxWaiting} {
		if n < 0 {
			return fmt.Errorf("-scheduler.%s must not be negative", name)
		}
	}
	return nil
}

// maxShards keeps the leases, each renewed every second, few.
const maxShards = 64

// withDefaults fills in what must not be zero.
func (c Config) withDefaults() Config {
	d := DefaultConfig()
	for field, def := range map[*int]int{&c.Shards: d.Shards, &c.Concurrency: d.Concurrency, &c.MaxWaiting: d.MaxWaiting, &c.Replicas: d.Replicas} {
		if *field <= 0 {
			*field = def
		}
	}
	for field, def := range map[*time.Duration]time.Duration{
		&c.Timeout: d.Timeout, &c.StartTimeout: d.StartTimeout, &c.InterruptGrace: d.InterruptGrace, &c.Sweep: d.Sweep,
	} {
		if *field <= 0 {
			*field = def
		}
	}
	if c.MaxArtifacts <= 0 {
		c.MaxArtifacts = d.MaxArtifacts
	}
	return c
}
