package bus

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nkeys"

	"agentyard.dev/libs/api"
)

// SessionIssuer mints credentials of sessions only.
type SessionIssuer struct {
	key       nkeys.KeyPair
	accountID string
	sessions  func() (signer, error)
	pods      func() (signer, error)
}

func newIssuer(key nkeys.KeyPair, accountID string) *SessionIssuer {
	return &SessionIssuer{
		key: key, accountID: accountID,
		sessions: sync.OnceValues(func() (signer, error) { return newSigner(key) }),
		pods: sync.OnceValues(func() (signer, error) {
			seed, err := key.Seed()
			if err != nil {
				return signer{}, err
			}
			pod, err := roleKey(string(seed), podRole)
			if err != nil {
				return signer{}, err
			}
			return newSigner(pod)
		}),
	}
}

// issuerForm is what Marshal writes.
type issuerForm struct {
	Account string `json:"account"` // public key
	Seed    string `json:"seed"`
}

// SessionIssuer returns the part of the keyring that mints sessions' credentials.
func (k *Keyring) SessionIssuer() *SessionIssuer {
	return newIssuer(k.roles[sessionRole], k.accountID)
}

// ParseSessionIssuer reads what Marshal wrote, for a sessions service that runs apart. It
// fails with invalid.
func ParseSessionIssuer(data []byte) (*SessionIssuer, error) {
	var form issuerForm
	if err := json.Unmarshal(data, &form); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "not a session issuer: %w", err)
	}
	if !nkeys.IsValidPublicAccountKey(form.Account) {
		return nil, api.Invalid("/account", "is not an account's public key")
	}
	key, err := parseSeed(form.Seed, nkeys.PrefixByteAccount)
	if err != nil {
		return nil, api.Invalid("/seed", "is not an account key's seed")
	}
	return newIssuer(key, form.Account), nil
}

// Marshal returns the issuer's secret form.
func (i *SessionIssuer) Marshal() []byte {
	seed, err := i.key.Seed()
	if err != nil {
		panic(fmt.Sprintf("bus: session issuer without a seed: %v", err)) // both constructors parse one
	}
	data, err := json.Marshal(issuerForm{Account: i.accountID, Seed: string(seed)})
	if err != nil {
		panic(fmt.Sprintf("bus: encode session issuer: %v", err)) // two strings
	}
	return data
}

// Credentials mints the credentials of one session's runner. It fails with invalid unless
// tenant is a valid name and session a valid session id.
func (i *SessionIssuer) Credentials(tenant, session string) ([]byte, error) {
	if !api.ValidName(tenant) {
		return nil, api.Invalid("/tenant", "is not a valid name")
	}
	if !api.ValidID(api.KindSession, session) {
		return nil, api.Invalid("/session", "is not a valid session id")
	}
	key, err := i.sessions()
	if err != nil {
		return nil, fmt.Errorf("mint session credentials: %w", err)
	}
	creds, err := key.mint(0, i.accountID, session, tenantTag+tenant)
	if err != nil {
		return nil, fmt.Errorf("mint session credentials: %w", err)
	}
	return creds, nil
}

// PodCredentials mints the credentials of a pod that has no session yet, good for so long: with them it may ask, as the session of
// that id of api.PodTenant, to be bound (api.RunnerBind), and nothing else. pod has the form of a session's id. It fails with invalid.
func (i *SessionIssuer) PodCredentials(pod string, life time.Duration) ([]byte, error) {
	if !api.ValidID(api.KindSession, pod) {
		return nil, api.Invalid("/pod", "is not of the form of a session id")
	}
	key, err := i.pods()
	if err != nil {
		return nil, fmt.Errorf("mint pod credentials: %w", err)
	}
	creds, err := key.mint(life, i.accountID, pod, tenantTag+api.PodTenant)
	if err != nil {
		return nil, fmt.Errorf("mint pod credentials: %w", err)
	}
	return creds, nil
}

// tenantTag begins the tag that only a session's credential has.
const tenantTag = "tenant:"
