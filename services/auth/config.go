package auth

import (
	"errors"
	"flag"
	"fmt"
	"time"

	"agentyard.dev/libs/trust"
)

// Config is what an operator may choose. The zero value of a field means its default.
type Config struct {
	// SecretFile holds the 32 bytes from which the keys that seal and hash are derived. Every replica needs the same file. It
	// is made (mode 0600) on the first start of a yard; without it the yard's signing and API keys are lost.
	SecretFile string
	// BootstrapKeyFile receives the first admin's API key (mode 0600), or gives it when it exists. Empty: the key is
	// printed once on standard error.
	BootstrapKeyFile string
	TokenTTL         time.Duration // of an access token
	RotateEvery      time.Duration // how long one key signs
	AuditMaxAge      time.Duration // how long an audit record is kept
	Replicas         int           // of each ledger's stream
}

// The defaults.
const (
	DefaultSecretFile = "auth.secret"
	// DefaultTokenTTL bounds for how long a token lives on that nothing revokes: a few minutes cost one exchange each per client.
	DefaultTokenTTL    = 5 * time.Minute
	DefaultRotateEvery = 24 * time.Hour
	DefaultAuditMaxAge = 30 * 24 * time.Hour
)

// minRotateEvery leaves time to publish a key before it signs.
const minRotateEvery = time.Minute

// Register adds the flags of c to fs with c's current values as defaults.
func (c *Config) Register(fs *flag.FlagSet) {
	*c = c.withDefaults()
	fs.StringVar(&c.SecretFile, "auth.secret-file", c.SecretFile,
		"`file` of 32 random bytes that protects keys at rest, the same on every replica; made on the first start")
	fs.StringVar(&c.BootstrapKeyFile, "auth.bootstrap-key-file", c.BootstrapKeyFile,
		"`file` that receives the first admin's API key, or gives it; empty: printed once on standard error")
	fs.DurationVar(&c.TokenTTL, "auth.token-ttl", c.TokenTTL, "how long an access token lives")
	fs.DurationVar(&c.RotateEvery, "auth.rotate-every", c.RotateEvery, "how long one key signs access tokens")
	fs.DurationVar(&c.AuditMaxAge, "auth.audit-max-age", c.AuditMaxAge, "how long an audit record is kept")
	fs.IntVar(&c.Replicas, "auth.ledger-replicas", c.Replicas, "copies of each ledger in the NATS cluster")
}

func (c Config) withDefaults() Config {
	if c.SecretFile == "" {
		c.SecretFile = DefaultSecretFile
	}
	if c.TokenTTL == 0 {
		c.TokenTTL = DefaultTokenTTL
	}
	if c.RotateEvery == 0 {
		c.RotateEvery = DefaultRotateEvery
	}
	if c.AuditMaxAge == 0 {
		c.AuditMaxAge = DefaultAuditMaxAge
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	return c
}

// Validate says all that is wrong with c.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if c.TokenTTL < 2*time.Second || c.TokenTTL > trust.MaxTokenTTL {
		errs = append(errs, fmt.Errorf("-auth.token-ttl %v: must be between 2s and %v", c.TokenTTL, trust.MaxTokenTTL))
	}
	if c.RotateEvery < minRotateEvery {
		errs = append(errs, fmt.Errorf("-auth.rotate-every %v: must be at least %v", c.RotateEvery, minRotateEvery))
	}
	if c.AuditMaxAge < time.Hour {
		errs = append(errs, fmt.Errorf("-auth.audit-max-age %v: must be at least 1h", c.AuditMaxAge))
	}
	if c.Replicas < 1 || c.Replicas > 5 {
		errs = append(errs, fmt.Errorf("-auth.ledger-replicas %d: must be between 1 and 5", c.Replicas))
	}
	return errors.Join(errs...)
}
