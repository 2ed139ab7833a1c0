//go:build cluster

package clustertest_test

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"agentyard.dev/deploy/cluster"
	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/kube"
	"agentyard.dev/services/sessions/kube/clustertest"
	"agentyard.dev/services/sessions/runner/agent"
)

// yard is a sessions service on a real bus, whose sessions are pods with the real runner.
type yard struct {
	t         *testing.T
	namespace string
	kube      kubernetes.Interface
	srv       *bus.Server
	ring      *bus.Keyring
	issuer    *bus.SessionIssuer
	client    *rpc.Client
	admin     context.Context
	keys      keys
	calls     *calls
}

// calls notes what the runtime asks the API server to change.
type calls struct {
	mu   sync.Mutex
	list []string
}

func (c *calls) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.Method != http.MethodGet {
			c.mu.Lock()
			c.list = append(c.list, req.Method+" "+req.URL.Path)
			c.mu.Unlock()
		}
		return next.RoundTrip(req)
	})
}

func (c *calls) changes() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.list)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

type keys map[string]ed25519.PublicKey

func (k keys) VerifyingKeys() map[string]ed25519.PublicKey { return k }

// emptyYard returns a bus and somebody who asks, without a service.
func emptyYard(t *testing.T) *yard {
	t.Helper()
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	y := &yard{
		t: t, namespace: clustertest.Namespace(t), kube: clustertest.Client(t), ring: ring, issuer: ring.SessionIssuer(),
		srv: bustest.Start(t, ring, t.TempDir(), cluster.Gateway+":0"),
	}
	key, err := token.NewSigningKey(time.Now(), time.Now(), time.Now().Add(24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := token.Mint(key, api.Principal{ID: api.NewID(api.KindUser), Tenant: api.HomeTenant, Name: "admin", Roles: []api.Role{api.RoleAdmin}}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	y.keys = keys{key.ID: key.Private.Public().(ed25519.PublicKey)}
	y.admin = token.WithRaw(context.Background(), raw)
	y.client = rpc.NewClient(bustest.Connect(t, y.srv, ring, "gateway"), rpc.ClientConfig{Name: "gateway", Timeout: patience})
	return y
}

// configs are those of its service, which the cluster's small nodes have room for.
func (y *yard) configs() (sessions.Config, kube.Config) {
	cfg, kcfg := sessions.DefaultConfig(), kube.DefaultConfig()
	cfg.Sweep = 100 * time.Millisecond
	cfg.StopGrace = 10 * time.Second
	cfg.StartTimeout = patience // a start that is late is another test's
	kcfg.Namespace, kcfg.Image = y.namespace, runnerImage
	kcfg.Requests = api.Resources{CPUs: 0.01, MemoryBytes: 16 << 20}
	return cfg, kcfg
}

// newYard returns a yard with a service.
func newYard(t *testing.T, change func(*sessions.Config, *kube.Config), with ...func(*sessions.Deps)) *yard {
	t.Helper()
	y := emptyYard(t)
	cfg, kcfg := y.configs()
	if change != nil {
		change(&cfg, &kcfg)
	}
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	y.calls = &calls{}
	reach := clustertest.Config(t)
	reach.Wrap(y.calls.wrap)
	deps := sessions.Deps{
		Conn: bustest.Connect(t, y.srv, y.ring, "sessions"), Auth: token.NewVerifier(y.keys, nil, nil),
		Issuer: y.issuer, BusURL: y.srv.URL(), Kind: known, CheckURL: anyURL, Logger: logger,
	}
	for _, f := range with {
		f(&deps)
	}
	runtime := run(t, kcfg, kube.Deps{Cluster: reach, BusURL: deps.BusURL, Credentials: y.issuer.PodCredentials, Logger: logger})
	deps.Runtime, deps.Info = runtime, runtime.Info()
	service := sessions.New(cfg, deps)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := service.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	clustertest.Eventually(t, "the service is ready", func() bool { return service.Ready(ctx) == nil })
	return y
}

func known(kind string) bool               { _, ok := agent.LookupKind(kind); return ok }
func anyURL(context.Context, string) error { return nil }

func (y *yard) profile(p api.Profile) {
	y.t.Helper()
	if _, err := rpc.Call(y.admin, y.client, api.CreateProfile, p); err != nil {
		y.t.Fatalf("profile: %v", err)
	}
}

func (y *yard) create(profile string) api.Session {
	y.t.Helper()
	s, err := rpc.Call(y.admin, y.client, api.CreateSession, api.CreateSessionRequest{Profile: profile})
	if err != nil {
		y.t.Fatalf("create: %v", err)
	}
	return s
}

func (y *yard) get(id string) api.Session {
	y.t.Helper()
	s, err := rpc.Call(y.admin, y.client, api.GetSession, api.SessionRef{ID: id})
	if err != nil {
		y.t.Fatalf("get: %v", err)
	}
	return s
}

// reaches waits for a state and fails at once for a final one that is not it.
func (y *yard) reaches(id string, want api.State) api.Session {
	y.t.Helper()
	var s api.Session
	clustertest.Eventually(y.t, id+" is "+string(want), func() bool {
		if s = y.get(id); s.State != want && s.State.Final() {
			y.t.Fatalf("%s is %s (%s), not %s", id, s.State, s.Reason, want)
		}
		return s.State == want
	})
	return s
}

// ask sends a message and returns the answer.
func (y *yard) ask(id, content string) string {
	y.t.Helper()
	return y.say(api.SendMessageRequest{ID: id, Content: content})
}

// say is ask for a message that is more than a text.
func (y *yard) say(message api.SendMessageRequest) string {
	y.t.Helper()
	sent, err := rpc.Call(y.admin, y.client, api.SendMessage, message)
	if err != nil {
		y.t.Fatalf("send: %v", err)
	}
	return y.answer(message.ID, sent.ID)
}

// answer waits for the answer to a message.
func (y *yard) answer(id, message string) string {
	y.t.Helper()
	var text string
	clustertest.Eventually(y.t, "an answer to "+message, func() bool {
		page, err := rpc.Call(y.admin, y.client, api.ListMessages, api.ListMessagesRequest{ID: id, List: api.List{Limit: 500}})
		if err != nil {
			y.t.Fatal(err)
		}
		for _, m := range page.Items {
			if m.ReplyTo == message && strings.Contains(m.Content, "[done "+message+"]") {
				text = m.Content
			}
		}
		return text != ""
	})
	return text
}

// end deletes a session and waits until nothing of it is left in the cluster.
func (y *yard) end(id string) {
	y.t.Helper()
	if _, err := rpc.Call(y.admin, y.client, api.DeleteSession, api.SessionRef{ID: id}); err != nil {
		y.t.Fatalf("delete: %v", err)
	}
	y.reaches(id, api.StateTerminated)
	left := metav1.ListOptions{LabelSelector: "agentyard.dev/session=" + id}
	pods, err := y.kube.CoreV1().Pods(y.namespace).List(y.t.Context(), left)
	if err != nil || len(pods.Items) != 0 {
		y.t.Errorf("%d pods are left, %v", len(pods.Items), err)
	}
	claims, err := y.kube.CoreV1().PersistentVolumeClaims(y.namespace).List(y.t.Context(), left)
	if err != nil || len(claims.Items) != 0 {
		y.t.Errorf("%d volumes are left, %v", len(claims.Items), err)
	}
}

func (y *yard) pod(id string) *corev1.Pod {
	y.t.Helper()
	pods, err := y.kube.CoreV1().Pods(y.namespace).List(y.t.Context(), metav1.ListOptions{LabelSelector: "agentyard.dev/session=" + id})
	if err != nil || len(pods.Items) != 1 {
		y.t.Fatalf("%d pods, %v", len(pods.Items), err)
	}
	return &pods.Items[0]
}
