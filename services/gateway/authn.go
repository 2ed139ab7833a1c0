package gateway

import (
	"context"
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"
	"time"

	"agentyard.dev/libs/api"
)

const (
	// maxCredential bounds what is hashed and sent on for a credential.
	maxCredential = 8 << 10
	// maxExchanged bounds the cache of exchanged keys; an entry is about 1 KiB.
	maxExchanged = 16_384
	// refreshBefore is how long before its end a minted token is replaced.
	refreshBefore = time.Minute
	// refusedFor is how long a refusal is remembered: enough to keep a client in a loop off the
	// auth service, short enough for a key that was just created on another replica.
	refusedFor = time.Second
	maxRefused = 4096
	// maxFlights bounds the exchanges at once, so that guessing cannot flood the auth service.
	maxFlights = 256
	// exchangeTimeout bounds one exchange, whoever waits for it.
	exchangeTimeout = 5 * time.Second
	cleanInterval   = 30 * time.Second
)

// verifier is token.Verifier, which also knows what is revoked.
type verifier interface {
	Verify(ctx context.Context, raw string) (api.Principal, error)
}

// caller is a credential that was found good, with the minted access token that stands for it.
type caller struct {
	api.Principal
	raw        string    // the minted access token, which travels on the bus
	credential string    // as presented: the token itself or an API key
	expires    time.Time // of raw; zero when only the token knows
	bucket     string    // of its rate limit
}

// authn turns credentials into callers. An API key costs one exchange; then its token is kept, by the key's hash, until
// shortly before it expires or is revoked.
type authn struct {
	verify   verifier
	exchange func(context.Context, api.ExchangeRequest) (api.TokenResponse, error)
	now      func() time.Time

	mu      sync.RWMutex
	minted  map[[32]byte]*caller
	refused map[[32]byte]refusal
	flights map[[32]byte]*flight
	flying  sync.WaitGroup
}

type refusal struct {
	err   error
	until time.Time
}

// flight is one exchange, on which all who present the same key wait.
type flight struct {
	done chan struct{}
	c    *caller
	err  error
}

func newAuthn(v verifier, exchange func(context.Context, api.ExchangeRequest) (api.TokenResponse, error)) *authn {
	return &authn{
		verify: v, exchange: exchange, now: time.Now,
		minted: map[[32]byte]*caller{}, refused: map[[32]byte]refusal{}, flights: map[[32]byte]*flight{},
	}
}

// run forgets what has expired, until ctx ends; then it waits for the exchanges in flight.
func (a *authn) run(ctx context.Context) {
	defer a.flying.Wait()
	tick := time.NewTicker(cleanInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.clean()
		}
	}
}

func (a *authn) clean() {
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, c := range a.minted {
		if now.After(c.expires) {
			delete(a.minted, k)
		}
	}
	for k, r := range a.refused {
		if now.After(r.until) {
			delete(a.refused, k)
		}
	}
}

// caller returns whoever credential stands for: an access token as it is, anything else as an API key. The errors are
// unauthenticated, and unavailable while the auth service is away.
func (a *authn) caller(ctx context.Context, credential, remoteIP string) (*caller, error) {
	switch {
	case credential == "":
		return nil, api.Errorf(api.CodeUnauthenticated, "no credential; send Authorization: Bearer <API key or access token>")
	case len(credential) > maxCredential:
		return nil, api.Errorf(api.CodeUnauthenticated, "the credential is too long")
	case strings.Count(credential, ".") == 2: // a JWS; API keys have no dots
		p, err := a.verify.Verify(ctx, credential)
		if err != nil {
			return nil, err
		}
		return &caller{Principal: p, raw: credential, credential: credential, bucket: bucketOf(p)}, nil
	}
	sum := sha256.Sum256([]byte(credential))
	a.mu.RLock()
	c, r := a.minted[sum], a.refused[sum]
	a.mu.RUnlock()
	if c != nil && a.fresh(ctx, c) {
		return c, nil
	}
	if r.err != nil && a.now().Before(r.until) {
		return nil, r.err
	}
	return a.mint(ctx, sum, credential, remoteIP)
}

// fresh reports whether c still stands: neither revoked nor about to expire.
func (a *authn) fresh(ctx context.Context, c *caller) bool {
	if !c.expires.IsZero() && !a.now().Before(c.expires.Add(-refreshBefore)) {
		return false
	}
	_, err := a.verify.Verify(ctx, c.raw)
	return err == nil
}

// mint exchanges a key, once for all who ask at the same time.
func (a *authn) mint(ctx context.Context, sum [32]byte, key, remoteIP string) (*caller, error) {
	a.mu.Lock()
	f, flying := a.flights[sum]
	if !flying {
		if len(a.flights) >= maxFlights {
			a.mu.Unlock()
			return nil, &api.Error{Code: api.CodeUnavailable, Detail: "too many unknown credentials at once; try again", RetryAfter: retrySoon}
		}
		f = &flight{done: make(chan struct{})}
		a.flights[sum] = f
		// The exchange outlives the request that started it, since others wait for it too.
		a.flying.Go(func() { a.fly(context.WithoutCancel(ctx), f, sum, key, remoteIP) })
	}
	a.mu.Unlock()
	select {
	case <-f.done:
		return f.c, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *authn) fly(ctx context.Context, f *flight, sum [32]byte, key, remoteIP string) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	defer close(f.done)
	f.c, f.err = a.ask(ctx, key, remoteIP)

	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.flights, sum)
	if f.err == nil {
		delete(a.refused, sum)
		evict(a.minted, maxExchanged)
		a.minted[sum] = f.c
		return
	}
	if old := a.minted[sum]; old != nil {
		// While the auth service is away, the token that is there serves to its end.
		if _, err := a.verify.Verify(ctx, old.raw); err == nil && api.CodeOf(f.err) == api.CodeUnavailable {
			f.c, f.err = old, nil
			return
		}
		delete(a.minted, sum)
	}
	if api.CodeOf(f.err) == api.CodeUnauthenticated {
		evict(a.refused, maxRefused)
		a.refused[sum] = refusal{err: f.err, until: a.now().Add(refusedFor)}
	}
}

func (a *authn) ask(ctx context.Context, key, remoteIP string) (*caller, error) {
	asked := a.now()
	resp, err := a.exchange(ctx, api.ExchangeRequest{Key: key, RemoteIP: remoteIP})
	if err != nil {
		return nil, err
	}
	p, err := a.verify.Verify(ctx, resp.AccessToken)
	if err != nil {
		return nil, err
	}
	return &caller{
		Principal: p, raw: resp.AccessToken, credential: key, bucket: bucketOf(p),
		expires: asked.Add(time.Duration(resp.ExpiresIn) * time.Second),
	}, nil
}

func bucketOf(p api.Principal) string { return "principal/" + p.Tenant + "/" + p.ID }

// evict makes room for one more: any entry goes, since a wrong choice costs one exchange.
func evict[K comparable, V any](m map[K]V, limit int) {
	for k := range m {
		if len(m) < limit {
			return
		}
		delete(m, k)
	}
}

// checkURL refuses a credential in the URL: URLs end in logs, histories and Referer headers.
func checkURL(r *http.Request) error {
	if r.URL.RawQuery != "" && strings.Contains(r.URL.RawQuery, "token=") {
		q := r.URL.Query()
		if q.Has("token") || q.Has("access_token") {
			return api.Errorf(api.CodeInvalid, "a token does not belong in a URL, where logs and histories keep it; send it in the header Authorization, or use a ticket from POST /api/v1/tickets")
		}
	}
	return nil
}

// credential returns what r presents, and whether as a cookie.
func (g *Gateway) credential(r *http.Request) (cred string, cookie bool, err error) {
	if hs := r.Header["Authorization"]; len(hs) > 0 {
		scheme, cred, _ := strings.Cut(hs[0], " ")
		if len(hs) > 1 || !strings.EqualFold(scheme, "Bearer") || cred == "" {
			return "", false, api.Errorf(api.CodeUnauthenticated, "the header Authorization must be: Bearer <API key or access token>")
		}
		return strings.TrimSpace(cred), false, nil
	}
	if len(r.Header["Cookie"]) > 0 {
		if c, err := r.Cookie(g.guard.cookieName()); err == nil && c.Value != "" {
			return c.Value, true, nil
		}
	}
	return "", false, nil
}

// authenticate returns the caller of r.
func (g *Gateway) authenticate(r *http.Request) (*caller, error) {
	if err := checkURL(r); err != nil {
		return nil, err
	}
	return g.authenticatePort(r)
}

// authenticatePort is authenticate for a request whose query is all for a session's own server, which may want a token of its own there.
func (g *Gateway) authenticatePort(r *http.Request) (*caller, error) {
	cred, cookie, err := g.credential(r)
	if err != nil {
		return nil, err
	}
	if cookie {
		if err := g.guard.checkWriteMethod(r); err != nil {
			return nil, err
		}
	}
	return g.auth.caller(r.Context(), cred, g.remoteIP(r))
}

// authenticateStream is authenticate for a stream, which a ticket may open too.
func (g *Gateway) authenticateStream(r *http.Request) (*caller, error) {
	if q := r.URL.Query(); q.Has("ticket") {
		cred, err := g.tickets.redeem(r.Context(), q.Get("ticket"))
		if err != nil {
			return nil, err
		}
		return g.auth.caller(r.Context(), cred, g.remoteIP(r))
	}
	return g.authenticate(r)
}
