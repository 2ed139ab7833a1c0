package bus

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"agentyard.dev/libs/api"
)

// Keyring holds the NATS operator, account and signing keys of one yard, and mints
// credentials from them. A part of it, the session signing key (SessionIssuer), can be
// given to the sessions service alone: it is a scoped signing key, whose permissions are a
// template by tag and name, so it signs credentials of sessions and nothing else.
//
// Permissions (see permissions.go for the exact list, libs/api/subject.go for the subjects):
//   - gateway: request yard.v1.op.>, subscribe yard.v1.live.log.>, read and follow every ledger
//     (JetStream consumer on and direct get of the ledger streams and LOG), own ledgers
//     IDEMPOTENCY and TICKETS written.
//   - auth: answer yard.v1.op.auth.*, own its ledgers (TENANTS USERS KEYS AUDIT JWKS REVOKED SIGNERS).
//   - sessions: answer yard.v1.op.sessions.* and yard.v1.runner.>, own SESSIONS PROFILES LOG
//     (publish …log.*.*.user), request yard.v1.op.auth.*.
//   - scheduler, tcagent: answer their own ops, own their own ledgers (TASKS SCHEDULES QUEUES;
//     POLICIES PLANS NODES), scheduler requests yard.v1.op.sessions.*.
//   - node <token>: follow yard.v1.live.plans.<token>.* and read PLANS, write its own entry of NODES and
//     publish its own counters; nothing else, no consumer, no operation (nodes.go).
//   - session <tenant>/<id>: publish yard.v1.runner.<tenant>.<id>.* (requests) and
//     yard.v1.log.<tenant>.<id>.agent, subscribe yard.v1.live.log.<tenant>.<id>.user and its own
//     inbox _INBOX_<id>.>; nothing else, no JetStream API.
//   - pod <id>: publish yard.v1.runner.pods.<id>.bind, subscribe _INBOX_<id>.>.
//
// Each service uses an inbox prefix of its own (_INBOX.<service>.>), so that nobody reads
// another's replies, and may publish to a reply subject only in answer to a request.
//
// The permissions are templates of the account, one per role, each with a signing key: a
// credential is small, and a new release's permissions hold for credentials that exist.
type Keyring struct {
	operator nkeys.KeyPair
	system   nkeys.KeyPair
	account  nkeys.KeyPair
	roles    map[string]nkeys.KeyPair   // scoped signing keys of the account: each service and sessionRole
	also     []map[string]nkeys.KeyPair // of other generations that servers believe

	accountID string // the account's public key
}

// sessionRole is the role of every session.
const sessionRole = "session"

// podRole is the role of a pod that has no session yet. Its signing key is derived from the sessions', so that whoever mints
// sessions' credentials needs no other secret for it.
const podRole = "pod"

// Services are the service names whose credentials a Keyring mints.
var Services = []string{"gateway", "auth", "sessions", "scheduler", "tcagent", NodeService}

// keyringFile is the only file of a keyring. One file, because half a keyring is none.
const keyringFile = "keyring.json"

// keyringSeeds is keyringFile's form: nkeys seeds.
type keyringSeeds struct {
	Operator string `json:"operator"`
	System   string `json:"system"`
	Account  string `json:"account"`
}

// OpenKeyring reads the keyring in dir, or makes one (files mode 0600, written atomically).
// When two processes make one at the same time, both return the same.
func OpenKeyring(dir string) (*Keyring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make keyring directory: %w", err)
	}
	path := filepath.Join(dir, keyringFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKeyring(dir, path); err != nil {
			return nil, fmt.Errorf("make keyring: %w", err)
		}
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read keyring: %w", err)
	}
	k, err := parseKeyring(data)
	if err != nil {
		return nil, fmt.Errorf("read keyring %s: %w", path, err)
	}
	return k, nil
}

func makeKeyring(dir, path string) error {
	var seeds keyringSeeds
	for _, k := range []struct {
		prefix nkeys.PrefixByte
		seed   *string
	}{
		{nkeys.PrefixByteOperator, &seeds.Operator},
		{nkeys.PrefixByteAccount, &seeds.System},
		{nkeys.PrefixByteAccount, &seeds.Account},
	} {
		kp, err := nkeys.CreatePairWithRand(k.prefix, rand.Reader)
		if err != nil {
			return err
		}
		seed, err := kp.Seed()
		if err != nil {
			return err
		}
		*k.seed = string(seed)
	}
	data, err := json.MarshalIndent(seeds, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".keyring-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	if _, err = tmp.Write(append(data, '\n')); err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	// A link, unlike a rename, does not replace what another process has just made.
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func parseKeyring(data []byte) (*Keyring, error) {
	var seeds keyringSeeds
	if err := json.Unmarshal(data, &seeds); err != nil {
		return nil, fmt.Errorf("not a keyring: %w", err)
	}
	k := &Keyring{}
	for _, s := range []struct {
		name   string
		seed   string
		prefix nkeys.PrefixByte
		to     *nkeys.KeyPair
	}{
		{"operator", seeds.Operator, nkeys.PrefixByteOperator, &k.operator},
		{"system", seeds.System, nkeys.PrefixByteAccount, &k.system},
		{"account", seeds.Account, nkeys.PrefixByteAccount, &k.account},
	} {
		kp, err := parseSeed(s.seed, s.prefix)
		if err != nil {
			return nil, fmt.Errorf("%s key: %w", s.name, err)
		}
		*s.to = kp
	}
	var err error
	if k.accountID, err = k.account.PublicKey(); err != nil {
		return nil, err
	}
	if k.roles, err = roleKeys(seeds.Account, 0); err != nil {
		return nil, err
	}
	return k, nil
}

// roleKey derives a role's signing key from the account's seed. It tells nothing about the
// seed or about another role's key, and a new role needs no new file.
func roleKey(accountSeed, role string) (nkeys.KeyPair, error) {
	raw, err := hkdf.Key(sha256.New, []byte(accountSeed), nil, "agentyard bus signing key "+role, 32)
	if err != nil {
		return nil, err
	}
	seed, err := nkeys.EncodeSeed(nkeys.PrefixByteAccount, raw)
	if err != nil {
		return nil, err
	}
	return nkeys.FromSeed(seed)
}

func parseSeed(seed string, want nkeys.PrefixByte) (nkeys.KeyPair, error) {
	prefix, _, err := nkeys.DecodeSeed([]byte(seed))
	if err != nil {
		return nil, err
	}
	if prefix != want {
		return nil, errors.New("a seed of the wrong kind")
	}
	return nkeys.FromSeed([]byte(seed))
}

// ServiceCredentials mints the credentials (.creds content) of one service; NodeService's are those of AnyNode.
func (k *Keyring) ServiceCredentials(service string) ([]byte, error) {
	if service == NodeService {
		return k.NodeCredentials(AnyNode)
	}
	if !slices.Contains(Services, service) {
		return nil, api.Invalid("/service", "%q is not one of %v", service, Services)
	}
	creds, err := mint(k.roles[service], k.accountID, service)
	if err != nil {
		return nil, fmt.Errorf("mint credentials of %s: %w", service, err)
	}
	return creds, nil
}

// trust is what a server needs to verify every credential of a keyring.
type trust struct {
	operator *jwt.OperatorClaims
	encoded  string // the operator's claims as a token
	systemID string
	resolver server.AccountResolver
}

// encodeSteadily is operator.Encode, but the same claims give the same text at any time: a server refuses to take in a changed configuration
// (a rotation of keys) whose operator is written differently, and Encode writes when it was done.
func encodeSteadily(operator *jwt.OperatorClaims, key nkeys.KeyPair) (string, error) {
	if _, err := operator.Encode(key); err != nil { // which fills in what is implied
		return "", err
	}
	operator.IssuedAt, operator.ID = 0, ""
	header, err := json.Marshal(jwt.Header{Type: jwt.TokenTypeJwt, Algorithm: jwt.AlgorithmNkey})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(operator)
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	signature, err := key.Sign([]byte(text))
	if err != nil {
		return "", err
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// trust makes the claims anew at each start, so that a new release's permissions are in force at once.
func (k *Keyring) trust() (*trust, error) {
	operatorID, err := k.operator.PublicKey()
	if err != nil {
		return nil, err
	}
	systemID, err := k.system.PublicKey()
	if err != nil {
		return nil, err
	}

	operator := jwt.NewOperatorClaims(operatorID)
	operator.Name = "agentyard"
	operator.SystemAccount = systemID
	encoded, err := encodeSteadily(operator, k.operator)
	if err != nil {
		return nil, err
	}
	if operator, err = jwt.DecodeOperatorClaims(encoded); err != nil {
		return nil, err
	}

	system := jwt.NewAccountClaims(systemID)
	system.Name = "SYS"
	yard := jwt.NewAccountClaims(k.accountID)
	yard.Name = "YARD"
	yard.Limits.DisallowBearer = true
	yard.Limits.JetStreamLimits = jwt.JetStreamLimits{
		MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
	}
	for _, roles := range append([]map[string]nkeys.KeyPair{k.roles}, k.also...) {
		for role, key := range roles {
			id, err := key.PublicKey()
			if err != nil {
				return nil, err
			}
			yard.SigningKeys.AddScopedSigner(roleScope(role, id))
		}
	}

	resolver := &server.MemAccResolver{}
	for _, a := range []*jwt.AccountClaims{system, yard} {
		token, err := a.Encode(k.operator)
		if err != nil {
			return nil, err
		}
		if err := resolver.Store(a.Subject, token); err != nil {
			return nil, err
		}
	}
	return &trust{operator: operator, encoded: encoded, systemID: systemID, resolver: resolver}, nil
}
