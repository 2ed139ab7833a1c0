package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coder/websocket"

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

// TestKeepAlive: a socket whose client says something is not cut off because the answer to a ping has not come up yet; one that says nothing is.
func TestKeepAlive(t *testing.T) {
	y := newYard(t)
	g := y.gateway()
	const every = time.Second
	ended := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.CloseNow() }()
		ctx, st, err := newStreams(g.auth, g.metrics, 1, g.visible).open(r.Context(), "ws", &caller{Principal: y.keys["alice-key"]})
		if err != nil {
			t.Error(err)
			return
		}
		defer st.close()
		(&socket{g: g, conn: conn, st: st}).serve(ctx, every)
	}))
	t.Cleanup(srv.Close)
	conn, _, err := websocket.Dial(timeout(t), srv.URL, nil)
	must(t, err)
	defer func() { _ = conn.CloseNow() }()
	// Only a client that reads answers pings, and this one does not.
	talk := time.NewTicker(every / 20)
	defer talk.Stop()
	for quiet := time.After(3 * every); ; {
		select {
		case <-ended:
			t.Fatal("a client that was heard was cut off")
		case <-talk.C:
			must(t, conn.Write(timeout(t), websocket.MessageText, []byte(`{"op":"ping"}`)))
			continue
		case <-quiet:
		}
		break
	}
	select {
	case <-ended:
	case <-timeout(t).Done():
		t.Error("a client that is gone keeps its socket")
	}
}
