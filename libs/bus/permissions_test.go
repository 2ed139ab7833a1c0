package bus_test

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

// client is a bare connection with some credential, as an attacker would use it.
type client struct {
	nc *nats.Conn
	mu sync.Mutex
	no []string // subjects that the server refused
}

func newClient(t *testing.T, url string, opts ...nats.Option) (*client, error) {
	c := &client{}
	opts = append(opts, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			c.mu.Lock()
			c.no = append(c.no, err.Error())
			c.mu.Unlock()
		}
	}), nats.NoReconnect())
	var err error
	c.nc, err = nats.Connect(url, opts...)
	if err == nil {
		t.Cleanup(c.nc.Close)
	}
	return c, err
}

// refused reports whether the server refuses what do sends.
func (c *client) refused(t *testing.T, subject string, do func() error) bool {
	t.Helper()
	if err := do(); err != nil {
		t.Fatal(err)
	}
	if err := c.nc.FlushWithContext(testContext(t)); err != nil {
		t.Fatal(err)
	}
	// The refusal precedes the answer to the flush, but is told by another goroutine, in
	// order: a second, certain refusal is told after it.
	const certain = "certainly.refused"
	if err := c.nc.Publish(certain, nil); err != nil {
		t.Fatal(err)
	}
	told := func(s string) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, no := range c.no {
			if strings.Contains(no, `"`+s+`"`) {
				return true
			}
		}
		return false
	}
	eventually(t, "the refusal is told", func() bool { return told(certain) })
	answer := told(subject)
	c.mu.Lock()
	c.no = nil
	c.mu.Unlock()
	return answer
}

func (c *client) mayPublish(t *testing.T, subject string) bool {
	t.Helper()
	return !c.refused(t, subject, func() error { return c.nc.Publish(subject, []byte("{}")) })
}

func (c *client) maySubscribe(t *testing.T, subject string) bool {
	t.Helper()
	return !c.refused(t, subject, func() error {
		sub, err := c.nc.SubscribeSync(subject)
		if err == nil {
			t.Cleanup(func() { _ = sub.Unsubscribe() })
		}
		return err
	})
}

// sessionClient connects with a session's own credential.
func (y *yard) sessionClient(t *testing.T, session string) *client {
	t.Helper()
	creds, err := y.ring.SessionIssuer().Credentials(tenant, session)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newClient(t, y.srv.URL(), nats.UserCredentialBytes(creds))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSessionPermissions(t *testing.T) {
	y := newYard(t, bus.LogConfig{})
	openThings(t, y.conn, 0)
	mine, other := api.NewID(api.KindSession), api.NewID(api.KindSession)
	c := y.sessionClient(t, mine)
	for subject, want := range map[string]bool{
		"yard.v1.runner.acme." + mine + ".report":       true,
		"yard.v1.log.acme." + mine + ".agent":           true,
		"yard.v1.log.acme." + mine + ".user":            false,
		"yard.v1.log.acme." + other + ".agent":          false,
		"yard.v1.log.other." + mine + ".agent":          false,
		"yard.v1.runner.acme." + other + ".report":      false,
		"yard.v1.runner.other." + mine + ".report":      false,
		"yard.v1.live.log.acme." + mine + ".user":       false,
		"yard.v1.op.sessions.create":                    false,
		"yard.v1.op.auth.exchange":                      false,
		"yard.v1.sessions.acme." + mine:                 false,
		"yard.v1.leases.sessions.reconciler":            false,
		"$JS.API.INFO":                                  false,
		"$JS.API.STREAM.INFO.LOG":                       false,
		"$JS.API.STREAM.CREATE.MINE":                    false,
		"$JS.API.STREAM.PURGE.LOG":                      false,
		"$JS.API.STREAM.DELETE.LOG":                     false,
		"$JS.API.STREAM.MSG.GET.LOG":                    false,
		"$JS.API.DIRECT.GET.LOG":                        false,
		"$JS.API.CONSUMER.CREATE.LOG.x":                 false,
		"$SYS.REQ.SERVER.PING":                          false,
		"$SYS.REQ.USER.INFO":                            false,
		"_INBOX.sessions.x":                             false,
		"_INBOX_" + other + ".x":                        false,
		"anything":                                      false,
		"$JS.API.DIRECT.GET.SESSIONS.yard.v1.sessions.": false,
	} {
		if strings.HasSuffix(subject, ".") {
			subject += "acme." + mine
		}
		if got := c.mayPublish(t, subject); got != want {
			t.Errorf("publish %s: allowed %v", subject, got)
		}
	}
	for subject, want := range map[string]bool{
		"yard.v1.live.log.acme." + mine + ".user":  true,
		"_INBOX_" + mine + ".>":                    true,
		"yard.v1.live.log.acme." + mine + ".agent": false,
		"yard.v1.live.log.acme." + mine + ".*":     false,
		"yard.v1.live.log.acme." + other + ".user": false,
		"yard.v1.live.log.*.*.user":                false,
		"yard.v1.live.log.>":                       false,
		"yard.v1.log.>":                            false,
		"yard.v1.runner.>":                         false,
		"yard.v1.op.>":                             false,
		"_INBOX.>":                                 false,
		"_INBOX_" + other + ".>":                   false,
		"_INBOX.sessions.>":                        false,
		"yard.v1.sessions.>":                       false,
		"*.>":                                      false,
		">":                                        false,
		"$JS.>":                                    false,
		"$SYS.>":                                   false,
	} {
		if got := c.maySubscribe(t, subject); got != want {
			t.Errorf("subscribe %s: allowed %v", subject, got)
		}
	}
	t.Run("is bounded", func(t *testing.T) {
		if err := c.nc.Publish("yard.v1.log.acme."+mine+".agent", make([]byte, 3<<20)); !errors.Is(err, nats.ErrMaxPayload) {
			// The client knows the server's limit only; the server ends the connection.
			_ = c.nc.FlushWithContext(testContext(t))
			eventually(t, "it is thrown out", c.nc.IsClosed)
		}
	})
}

func TestServicePermissions(t *testing.T) {
	y := newYard(t, bus.LogConfig{})
	s := api.NewID(api.KindSession)
	for service, may := range map[string]struct{ pub, noPub, sub, noSub []string }{
		"gateway": {
			pub: []string{
				"yard.v1.op.sessions.create", "yard.v1.idempotency.acme.k1", "$JS.API.STREAM.CREATE.TICKETS",
				"$JS.API.CONSUMER.CREATE.SESSIONS.x.yard.v1.sessions.*.*", "$JS.API.DIRECT.GET.LOG",
			},
			noPub: []string{
				"yard.v1.sessions.acme." + s, "yard.v1.log.acme." + s + ".user", "yard.v1.log.acme." + s + ".agent", "yard.v1.users.acme.u1",
				"yard.v1.runner.acme." + s + ".report", "$JS.API.STREAM.CREATE.SESSIONS", "$JS.API.STREAM.PURGE.LOG", "$JS.API.STREAM.DELETE.SESSIONS",
				"$JS.API.DIRECT.GET.SIGNERS", "$JS.API.CONSUMER.CREATE.SIGNERS.x.y", "$JS.API.CONSUMER.CREATE.LOG.x.y", "yard.v1.leases.sessions.x",
				"_INBOX.auth.x", "yard.v1.peer.scheduler.auth.act-as", "yard.v1.blobs.acme.t1.b",
			},
			sub:   []string{"yard.v1.live.log.>", "_INBOX.gateway.>"},
			noSub: []string{"_INBOX.>", "_INBOX.auth.>", "yard.v1.op.auth.*", "yard.v1.op.>", "yard.v1.runner.>", ">"},
		},
		"auth": {
			pub:   []string{"yard.v1.users.acme.u1", "yard.v1.signers.default.k1", "$JS.API.STREAM.CREATE.USERS", "yard.v1.leases.auth.x"},
			noPub: []string{"yard.v1.op.sessions.create", "yard.v1.sessions.acme." + s, "yard.v1.log.acme." + s + ".user", "$JS.API.DIRECT.GET.LOG"},
			sub:   []string{"yard.v1.op.auth.*", "_INBOX.auth.>"},
			noSub: []string{"yard.v1.op.sessions.*", "yard.v1.live.log.>", "_INBOX.gateway.>"},
		},
		"sessions": {
			pub:   []string{"yard.v1.sessions.acme." + s, "yard.v1.log.acme." + s + ".user", "yard.v1.op.auth.exchange", "$JS.API.STREAM.PURGE.LOG", "$JS.ACK.SESSIONS.c.1.10.2.1700000000.0", "yard.v1.peer.sessions.auth.record-act"},
			noPub: []string{"yard.v1.users.acme.u1", "yard.v1.log.acme." + s + ".agent", "yard.v1.op.tcagent.x", "$JS.API.DIRECT.GET.KEYS", "$JS.API.STREAM.DELETE.LOG", "$JS.ACK.KEYS.c.1.10.2.1700000000.0"},
			sub:   []string{"yard.v1.op.sessions.*", "yard.v1.runner.>"},
			noSub: []string{"yard.v1.op.auth.*", "_INBOX_" + s + ".>"},
		},
		"scheduler": {
			pub:   []string{"yard.v1.tasks.acme.t1", "yard.v1.op.sessions.create", "yard.v1.peer.scheduler.auth.act-as", "yard.v1.peer.scheduler.auth.record-act", "yard.v1.blobs.acme.t1.b"},
			noPub: []string{"yard.v1.sessions.acme." + s, "yard.v1.op.auth.exchange", "yard.v1.peer.scheduler.auth.exchange", "yard.v1.peer.gateway.auth.act-as"},
			sub:   []string{"yard.v1.op.scheduler.*", "yard.v1.live.log.>"},
			noSub: []string{"yard.v1.op.sessions.*", "yard.v1.peer.*.auth.*"},
		},
		"tcagent": {
			pub:   []string{"yard.v1.plans.acme.p1"},
			noPub: []string{"yard.v1.tasks.acme.t1", "yard.v1.op.sessions.create"},
			sub:   []string{"yard.v1.op.tcagent.*"},
			noSub: []string{"yard.v1.runner.>"},
		},
	} {
		t.Run(service, func(t *testing.T) {
			creds, err := y.ring.ServiceCredentials(service)
			if err != nil {
				t.Fatal(err)
			}
			c, err := newClient(t, y.srv.URL(), nats.UserCredentialBytes(creds))
			if err != nil {
				t.Fatal(err)
			}
			for want, subjects := range map[bool][]string{true: may.pub, false: may.noPub} {
				for _, subject := range subjects {
					if c.mayPublish(t, subject) != want {
						t.Errorf("publish %s: allowed %v", subject, !want)
					}
				}
			}
			for want, subjects := range map[bool][]string{true: may.sub, false: may.noSub} {
				for _, subject := range subjects {
					if c.maySubscribe(t, subject) != want {
						t.Errorf("subscribe %s: allowed %v", subject, !want)
					}
				}
			}
		})
	}
	_, err := y.ring.ServiceCredentials("session")
	wantCode(t, err, api.CodeInvalid)
}

// A service may answer whom asked it, and that once only.
func TestReplies(t *testing.T) {
	srv, ring := bustest.New(t)
	asker, answerer := bustest.Connect(t, srv, ring, "gateway"), bustest.ConnectInProcess(t, srv, ring, "auth")
	sub, err := answerer.NATS().QueueSubscribe("yard.v1.op.auth.*", "auth", func(m *nats.Msg) { _ = m.Respond([]byte("yes")) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := answerer.NATS().Flush(); err != nil {
		t.Fatal(err)
	}
	r, err := asker.NATS().RequestWithContext(testContext(t), "yard.v1.op.auth.exchange", nil)
	if err != nil || string(r.Data) != "yes" {
		t.Fatal(r, err)
	}
}

// No credential, a bad one, or one of another keyring: refused over TCP and in process.
func TestServerRefusesStrangers(t *testing.T) {
	t.Parallel() // a client in process notices its refusal late
	srv, ring := bustest.New(t)
	foreign, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	foreignCreds, err := foreign.ServiceCredentials("sessions")
	if err != nil {
		t.Fatal(err)
	}
	good, err := ring.ServiceCredentials("sessions")
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.ParseDecoratedJWT(good)
	if err != nil {
		t.Fatal(err)
	}
	wrongKey, err := nkeys.CreatePairWithRand(nkeys.PrefixByteUser, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// A user that signs itself what the session issuer's key may not grant.
	selfSigned := forge(t, ring)

	for name, opt := range map[string]nats.Option{
		"anonymous":       func(*nats.Options) error { return nil },
		"a password":      nats.UserInfo("admin", "admin"),
		"a token":         nats.Token("secret"),
		"another keyring": nats.UserCredentialBytes(foreignCreds),
		"a stolen token without its key": nats.UserJWT(
			func() (string, error) { return token, nil },
			func(nonce []byte) ([]byte, error) { return wrongKey.Sign(nonce) }),
		"a session key that grants more": nats.UserCredentialBytes(selfSigned),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := newClient(t, srv.URL(), opt); !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("over TCP: %v", err)
			}
		})
	}
	t.Run("in process", func(t *testing.T) {
		c, err := bus.Connect(bus.Config{InProcess: srv, Credentials: foreignCreds})
		if err != nil {
			t.Fatal(err)
		}
		defer c.NATS().Close()
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		wantCode(t, c.Ready(ctx), api.CodeUnavailable)
	})
	t.Run("no credential at all", func(t *testing.T) {
		_, err := bus.Connect(bus.Config{InProcess: srv})
		wantCode(t, err, api.CodeInvalid)
	})
}

// forge signs a user of unlimited permissions with the session issuer's key.
func forge(t *testing.T, ring *bus.Keyring) []byte {
	t.Helper()
	secret := string(ring.SessionIssuer().Marshal())
	_, rest, _ := strings.Cut(secret, `"seed":"`)
	seed, _, _ := strings.Cut(rest, `"`)
	_, rest, _ = strings.Cut(secret, `"account":"`)
	account, _, _ := strings.Cut(rest, `"`)
	signer, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		t.Fatal(err)
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := user.PublicKey()
	claims := jwt.NewUserClaims(id)
	claims.Name = "evil"
	claims.IssuerAccount = account
	claims.Permissions.Pub.Allow.Add(">")
	claims.Permissions.Sub.Allow.Add(">")
	forged, err := claims.Encode(signer)
	if err != nil {
		t.Fatal(err)
	}
	userSeed, _ := user.Seed()
	creds, err := jwt.FormatUserConfig(forged, userSeed)
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

func TestKeyring(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	issuers := make([]string, 8)
	for i := range issuers {
		wg.Go(func() {
			ring, err := bus.OpenKeyring(dir)
			if err != nil {
				t.Error(err)
				return
			}
			issuers[i] = string(ring.SessionIssuer().Marshal())
		})
	}
	wg.Wait()
	for _, is := range issuers {
		if is != issuers[0] {
			t.Fatal("two processes made different keyrings")
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if info, _ := files[0].Info(); info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v", info.Mode())
	}

	issuer, err := bus.ParseSessionIssuer([]byte(issuers[0]))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][2]string{{"acme", "s1"}, {"acme", "*"}, {"*", api.NewID(api.KindSession)}, {"a.b", api.NewID(api.KindSession)}, {"acme", "gateway"}, {"", ""}} {
		_, err := issuer.Credentials(bad[0], bad[1])
		wantCode(t, err, api.CodeInvalid)
	}
	if _, err := issuer.Credentials("acme", api.NewID(api.KindSession)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/keyring.json", []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.OpenKeyring(dir); err == nil {
		t.Fatal("opened a broken keyring")
	}
}
