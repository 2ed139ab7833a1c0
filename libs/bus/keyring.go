package bus

import (
	"agentyard.dev/libs/api"
)

// Keyring holds the NATS operator, account and signing keys of one yard, and mints
// credentials from them. A part of it, the session signing key (SessionIssuer), can be given to the sessions
// service alone: with a scoped signing key (template permissions by tag and name) it can sign credentials of
// sessions and nothing else.
//
// Permissions (see libs/api/subject.go):
//   - gateway: request yard.v1.op.>, subscribe yard.v1.live.>, read and follow every ledger (JetStream consumer on and direct get
//     of the ledger streams and LOG), own ledgers IDEMPOTENCY and TICKETS written.
//   - auth: answer yard.v1.op.auth.*, own its ledgers (TENANTS USERS KEYS AUDIT JWKS REVOKED).
//   - sessions: answer yard.v1.op.sessions.* and yard.v1.runner.>, own SESSIONS PROFILES LOG (publish …log.*.*.user),
//     request yard.v1.op.auth.*.
//   - scheduler, tcagent: answer their own ops, own their own ledgers (TASKS SCHEDULES QUEUES; POLICIES PLANS), scheduler requests
//     yard.v1.op.sessions.*.
//   - session <tenant>/<id>: publish yard.v1.runner.<tenant>.<id>.* (requests) and yard.v1.log.<tenant>.<id>.agent, subscribe
//     yard.v1.live.log.<tenant>.<id>.user and its own inbox _INBOX_<id>.>; nothing else, no JetStream API.
//
// Each service uses an inbox prefix of its own (_INBOX_<service>.>), so that nobody reads another's replies.
type Keyring struct{}

// Service names whose credentials a Keyring mints.
var Services = []string{"gateway", "auth", "sessions", "scheduler", "tcagent"}

// OpenKeyring reads the keyring in dir, or makes one (files mode 0600, written atomically).
func OpenKeyring(dir string) (*Keyring, error) { panic("todo") }

// ServiceCredentials mints the credentials (.creds content) of one service.
func (k *Keyring) ServiceCredentials(service string) ([]byte, error) { panic("todo") }

// SessionIssuer returns the part of the keyring that mints sessions' credentials.
func (k *Keyring) SessionIssuer() *SessionIssuer { panic("todo") }

// SessionIssuer mints credentials of sessions only.
type SessionIssuer struct{}

// ParseSessionIssuer reads what Marshal wrote, for a sessions service that runs apart.
func ParseSessionIssuer(data []byte) (*SessionIssuer, error) { panic("todo") }

// Marshal returns the issuer's secret form.
func (i *SessionIssuer) Marshal() []byte { panic("todo") }

// Credentials mints the credentials of one session's runner.
func (i *SessionIssuer) Credentials(tenant, session string) ([]byte, error) { panic("todo") }

var _ = api.RunnerPrefix
