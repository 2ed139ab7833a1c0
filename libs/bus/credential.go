package bus

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"agentyard.dev/libs/api"
)

// credential is a NATS .creds file in the form that connects. nats.go's own option reads the file by a regular expression at each connect and
// derives the key at each signature; together with verifying a token that the server verifies anyway that was half of what a connection cost who makes it.
type credential struct {
	token  string // the user's JWT
	key    ed25519.PrivateKey
	inbox  string // prefix of the subjects on which it may receive replies
	scoped bool   // a session's: no JetStream API
}

// parseCredential reads a .creds file. It fails with invalid for what is none. Whether the token is signed by somebody is for the server to say.
func parseCredential(file []byte) (credential, error) {
	token, seed := decorated(file)
	if token == "" || seed == "" { // not as we and nsc write them
		var err error
		if token, err = jwt.ParseDecoratedJWT(file); err != nil {
			return credential{}, api.Errorf(api.CodeInvalid, "credentials hold no user token: %w", err)
		}
		pair, err := jwt.ParseDecoratedUserNKey(file)
		if err != nil {
			return credential{}, api.Errorf(api.CodeInvalid, "credentials hold no user seed: %w", err)
		}
		raw, err := pair.Seed()
		if err != nil {
			return credential{}, api.Errorf(api.CodeInvalid, "credentials hold no user seed: %w", err)
		}
		seed = string(raw)
	}
	c := credential{token: token}
	kind, raw, err := nkeys.DecodeSeed([]byte(seed))
	switch {
	case err != nil:
		return c, api.Errorf(api.CodeInvalid, "credentials hold no user seed: %w", err)
	case kind != nkeys.PrefixByteUser:
		return c, api.Errorf(api.CodeInvalid, "credentials hold a seed that is not a user's")
	}
	c.key = ed25519.NewKeyFromSeed(raw)
	who, err := claimsOf(token)
	if err != nil {
		return c, api.Errorf(api.CodeInvalid, "credentials hold a bad user token: %w", err)
	}
	if err := checkToken("name", who.Name); err != nil {
		return c, api.Errorf(api.CodeInvalid, "credentials hold a bad user name: %w", err)
	}
	c.inbox = serviceInbox(who.Name)
	for _, tag := range who.NATS.Tags {
		if strings.HasPrefix(tag, tenantTag) {
			c.inbox, c.scoped = sessionInbox(who.Name), true
			break
		}
		if node, ok := strings.CutPrefix(tag, nodeTag); ok {
			c.inbox = nodeInbox(node)
			break
		}
	}
	return c, nil
}

// option is how a connection proves who it is.
func (c credential) option() nats.Option {
	return nats.UserJWT(
		func() (string, error) { return c.token, nil },
		func(nonce []byte) ([]byte, error) { return ed25519.Sign(c.key, nonce), nil },
	)
}

// claims are what a connection itself reads of its user token.
type claims struct {
	Name string `json:"name"`
	NATS struct {
		Type string   `json:"type"`
		Tags []string `json:"tags"`
	} `json:"nats"`
}

// claimsOf reads a user token and verifies nothing.
func claimsOf(token string) (c claims, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || strings.ContainsAny(token, " \t\r\n") {
		return c, errors.New("not a JWT")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, err
	}
	if c.NATS.Type != string(jwt.UserClaim) {
		return c, errors.New("not a user's")
	}
	return c, nil
}

// decorated returns the first two lines that stand alone between lines of dashes, which are the token and the seed; empty without them.
func decorated(file []byte) (token, seed string) {
	dashes := func(line []byte) bool {
		return len(line) >= 6 && bytes.HasPrefix(line, []byte("---")) && bytes.HasSuffix(line, []byte("---"))
	}
	var before, held []byte // the two lines before
	for line := range bytes.Lines(file) {
		line = bytes.TrimSpace(line)
		if dashes(before) && dashes(line) && len(held) > 0 && !dashes(held) {
			if token != "" {
				return token, string(held)
			}
			token = string(held)
			before, held = nil, nil // this line ends a block and begins none
			continue
		}
		before, held = held, line
	}
	return token, ""
}
