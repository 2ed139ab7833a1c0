package sessions_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/runner"
)

// podNode is a cluster whose runners ask for their launch: of the session that is started, whoever asks.
type podNode struct {
	*node
	started chan launch.Launch
}

func (n *podNode) Start(_ context.Context, l launch.Launch) (sessions.Instance, error) {
	n.started <- l
	return sessions.Instance{Ref: sessions.Ref{Tenant: l.Tenant, Session: l.Session}, Incarnation: l.Incarnation}, nil
}

func (n *podNode) Identify(_ context.Context, _ string, req api.RunnerBindRequest) (sessions.Placed, error) {
	return sessions.Placed{Instance: sessions.Instance{Ref: sessions.Ref{Tenant: api.HomeTenant, Session: req.Pod}, Incarnation: 1}, Node: "n7"}, nil
}

func (n *podNode) Place(l *launch.Launch) { l.Dir = "/session" }

// TestBind: of all that ask for a session's launch, however near to each other, one is told, once.
func TestBind(t *testing.T) {
	t.Parallel()
	y := emptyYard(t, nil)
	n := &podNode{node: newCluster(y).join(), started: make(chan launch.Launch, 16)}
	r := y.serve(n, n.Info())
	t.Cleanup(func() { y.removeAll(); r.stop() })
	ctx := y.as("ann")
	s := y.create(ctx, api.CreateSessionRequest{})
	<-n.started

	pod := api.NewID(api.KindSession)
	creds, err := y.ring.SessionIssuer().PodCredentials(pod, patience)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := bus.Connect(bus.Config{URL: y.srv.URL(), Credentials: creds, Name: "pod"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	client := rpc.NewClient(conn, rpc.ClientConfig{Name: "pod", Timeout: patience})
	ask := func(session string) (launch.Launch, error) {
		var l launch.Launch
		res, err := rpc.CallAsSession(t.Context(), client, api.PodTenant, pod, api.RunnerBind, api.RunnerBindRequest{Pod: session, UID: "u1"})
		if err == nil {
			err = json.Unmarshal(res.Launch, &l)
		}
		return l, err
	}
	if _, err := ask(api.NewID(api.KindSession)); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("for a session that there is not: %v", err)
	}
	var told []launch.Launch
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			l, err := ask(s.ID)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				told = append(told, l)
			} else if api.CodeOf(err) != api.CodeConflict {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(told) != 1 || told[0].Session != s.ID || len(told[0].Credentials) == 0 || told[0].Dir != "/session" {
		t.Errorf("%d were told: %+v", len(told), told)
	}
	if now := y.get(ctx, s.ID); now.Node != "n7" {
		t.Errorf("it is on %q", now.Node)
	}
	session, err := y.ring.SessionIssuer().Credentials(api.HomeTenant, s.ID)
	if err != nil {
		t.Fatal(err)
	}
	own, err := bus.Connect(bus.Config{URL: y.srv.URL(), Credentials: session, Name: "runner"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Close(context.Background()) })
	asRunner := rpc.NewClient(own, rpc.ClientConfig{Name: "runner", Timeout: patience})
	if _, err := rpc.CallAsSession(t.Context(), asRunner, api.HomeTenant, s.ID, api.RunnerBind, api.RunnerBindRequest{Pod: s.ID, UID: "u2"}); api.CodeOf(err) != api.CodeDenied {
		t.Errorf("a session asked to be bound: %v", err)
	}
}

// TestBindUnheard: who has a pod's credential, which is in its manifest, and listens learns nothing of what the pod is told.
func TestBindUnheard(t *testing.T) {
	t.Parallel()
	y := emptyYard(t, nil)
	n := &podNode{node: newCluster(y).join(), started: make(chan launch.Launch, 16)}
	r := y.serve(n, n.Info())
	t.Cleanup(func() { y.removeAll(); r.stop() })
	s := y.create(y.as("ann"), api.CreateSessionRequest{Env: map[string]string{"SAFE_WORD": "xylophone"}})
	<-n.started
	pod := api.NewID(api.KindSession)
	creds, err := y.ring.SessionIssuer().PodCredentials(pod, patience)
	if err != nil {
		t.Fatal(err)
	}
	thief, err := bus.Connect(bus.Config{URL: y.srv.URL(), Credentials: creds, Name: "thief"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = thief.Close(context.Background()) })
	heard := make(chan []byte, 16)
	err = thief.Subscribe(t.Context(), "_INBOX_"+pod+".>", func(_ string, _ bus.Header, data []byte) { heard <- bytes.Clone(data) }, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := runner.Pod{BusURL: y.srv.URL(), Credentials: string(creds), ID: pod, Name: s.ID, UID: "u1"}.Bind(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil || l.Session != s.ID || l.Env["SAFE_WORD"] != "xylophone" || len(l.Credentials) == 0 {
		t.Fatalf("the pod was told %+v, %v", l, err)
	}
	select {
	case data := <-heard:
		if bytes.Contains(data, []byte("xylophone")) || bytes.Contains(data, []byte(s.ID)) || !bytes.Contains(data, []byte(`"sealed"`)) {
			t.Errorf("who listened heard %s", data)
		}
	case <-time.After(patience):
		t.Error("the answer was not where everybody with the credential may listen: this test shows nothing")
	}
	asked := rpc.NewClient(thief, rpc.ClientConfig{Name: "thief", Timeout: patience})
	_, err = rpc.CallAsSession(t.Context(), asked, api.PodTenant, pod, api.RunnerBind, api.RunnerBindRequest{Pod: s.ID, UID: "u1", Key: []byte("no key")})
	if api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("with a key that is none: %v", err)
	}
}
