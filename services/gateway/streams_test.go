package gateway

import (
	"context"
	"errors"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/token"
)

// TestStreamCredential: a stream whose credential ends is told why, and only one whose credential was refused that it should sign in again.
func TestStreamCredential(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	alice := y.keys["alice-key"]
	raw, err := token.Mint(y.signing, alice, time.Now().Add(-time.Hour), time.Minute)
	must(t, err)
	for name, tc := range map[string]struct{ says, want error }{
		"the key is refused":       {api.Errorf(api.CodeUnauthenticated, "the API key is not valid"), errRevoked},
		"nobody answers for a key": {api.Errorf(api.CodeUnavailable, "auth does not answer"), api.Errorf(api.CodeUnavailable, "")},
	} {
		t.Run(name, func(t *testing.T) {
			auth := newAuthn(g.auth.verify, func(context.Context, api.ExchangeRequest) (api.TokenResponse, error) {
				return api.TokenResponse{}, tc.says
			})
			start(t, func(ctx context.Context) error { auth.run(ctx); return nil })
			s := newStreams(auth, g.metrics, 1, g.visible)
			ctx, st, err := s.open(timeout(t), "sse", &caller{Principal: alice, raw: raw, credential: "alice-key"})
			must(t, err)
			defer st.close()
			start(t, func(ctx context.Context) error { s.run(ctx); return nil })
			<-ctx.Done()
			if cause := context.Cause(ctx); !errors.Is(cause, tc.want) {
				t.Errorf("ended with %v, want %v", cause, tc.want)
			}
		})
	}
}
