package bus

import (
	"fmt"
	"strings"

	"github.com/nats-io/nkeys"

	"agentyard.dev/libs/api"
)

// maxGenerations bounds how many generations of signing keys a server believes at one time.
const maxGenerations = 8

// Generations returns the keyring with other signing keys: it mints credentials of generation newest, and servers
// believe those from oldest to newest and of the generation that comes next, so that a rotation need not wait for
// them. Generation 0 is what a keyring has by itself. All is derived from the account's seed: there is nothing
// to keep, and the account with its streams stays the same. It fails with invalid.
//
// To rotate: raise newest and give each service its new credential; when all use them, raise oldest, and
// whoever holds an older credential (a service's, a session's or the session issuer) is shut out.
func (k *Keyring) Generations(oldest, newest int) (*Keyring, error) {
	if oldest < 0 || newest < oldest || newest-oldest >= maxGenerations {
		return nil, api.Invalid("/oldest", "generations %d to %d: want 0 ≤ oldest ≤ newest, and fewer than %d of them", oldest, newest, maxGenerations)
	}
	seed, err := k.account.Seed()
	if err != nil {
		return nil, err
	}
	other := *k
	other.roles, other.also = nil, nil
	for g := oldest; g <= newest+1; g++ {
		roles, err := roleKeys(string(seed), g)
		if err != nil {
			return nil, err
		}
		if g == newest {
			other.roles = roles
		} else {
			other.also = append(other.also, roles)
		}
	}
	return &other, nil
}

// roleKeys derives the signing key of each role.
func roleKeys(accountSeed string, generation int) (map[string]nkeys.KeyPair, error) {
	keys := map[string]nkeys.KeyPair{}
	for _, role := range append([]string{sessionRole}, Services...) {
		name := role
		if generation > 0 {
			name = fmt.Sprintf("%s generation %d", role, generation)
		}
		key, err := roleKey(accountSeed, name)
		if err != nil {
			return nil, fmt.Errorf("signing key of %s: %w", role, err)
		}
		keys[role] = key
	}
	seed, err := keys[sessionRole].Seed()
	if err != nil {
		return nil, err
	}
	if keys[podRole], err = roleKey(string(seed), podRole); err != nil {
		return nil, fmt.Errorf("signing key of %s: %w", podRole, err)
	}
	return keys, nil
}

// TrustConfig returns the part of a nats-server's configuration that has it believe the keyring, as a Server does: operator,
// system account, and the account with the permissions of this release. It holds no secret. The server needs
// max_payload of at least MaxPayload beside it.
func (k *Keyring) TrustConfig() ([]byte, error) {
	t, err := k.trust()
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: {\n", t.encoded, t.systemID)
	for _, id := range []string{t.systemID, k.accountID} {
		claims, err := t.resolver.Fetch(id)
		if err != nil {
			return nil, fmt.Errorf("account %s: %w", id, err)
		}
		fmt.Fprintf(&b, "  %s: %s\n", id, claims)
	}
	b.WriteString("}\n")
	return []byte(b.String()), nil
}
