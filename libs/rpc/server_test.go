package rpc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/token"
)

type echoRequest struct {
	Text string   `json:"text"`
	Tags []string `json:"tags,omitempty"`
}

type echoResponse struct {
	Text string `json:"text"`
	By   string `json:"by"`
}

var (
	echo     = api.Op[echoRequest, echoResponse]{Service: "test", Verb: "echo", Permission: api.SessionRead}
	admin    = api.Op[echoRequest, echoResponse]{Service: "test", Verb: "admin", Permission: api.UserWrite}
	anyone   = api.Op[echoRequest, echoResponse]{Service: "test", Verb: "anyone", Permission: api.Authenticated}
	open     = api.Op[echoRequest, echoResponse]{Service: "test", Verb: "open", Permission: api.Public}
	report   = api.Op[echoRequest, echoResponse]{Service: "test", Verb: "report", Permission: api.SessionScoped}
	sessionA = "s" + strings.Repeat("a", 16)
)

// answerEcho returns the request's text and who asked.
func answerEcho(ctx context.Context, req echoRequest) (echoResponse, error) {
	p, _ := api.PrincipalFrom(ctx)
	return echoResponse{Text: req.Text, By: p.ID}, nil
}

// newTest returns a server of the service "test" and a client, each with a connection of its own.
func newTest(tb testing.TB, cfg ServerConfig) (*Server, *Client, func(...nats.Option) *nats.Conn) {
	tb.Helper()
	connect := startBus(tb)
	cfg.Service, cfg.Auth = "test", people
	return newServer(connect(), cfg), newClient(connect(), ClientConfig{Name: "asker"}), connect
}

func as(raw string) context.Context { return token.WithRaw(context.Background(), raw) }

func TestAuthorise(t *testing.T) {
	var mu sync.Mutex
	var denied []string
	s, c, connect := newTest(t, ServerConfig{Denied: func(_ context.Context, op api.OpInfo, p api.Principal, err error) {
		mu.Lock()
		defer mu.Unlock()
		denied = append(denied, fmt.Sprintf("%s %s %s", op.Name(), p.ID, api.CodeOf(err)))
	}})
	for _, op := range []api.Op[echoRequest, echoResponse]{echo, admin, anyone, open, report} {
		Handle(s, op, answerEcho)
	}
	runServer(t, s)

	for _, tc := range []struct {
		name, raw string
		op        api.Op[echoRequest, echoResponse]
		by        string
		code      api.Code
	}{
		{name: "a permission that the role has", raw: "ada-token", op: echo, by: ada.ID},
		{name: "a permission that the role lacks", raw: "ada-token", op: admin, code: api.CodeDenied},
		{name: "an admin", raw: "chief-token", op: admin, by: chief.ID},
		{name: "any valid token", raw: "ada-token", op: anyone, by: ada.ID},
		{name: "no token", op: anyone, code: api.CodeUnauthenticated},
		{name: "garbage as token", raw: "garbage", op: echo, code: api.CodeUnauthenticated},
		{name: "an unsigned token", raw: "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1YmJiYmJiYmJiYmJiYmJiYiJ9.", op: admin, code: api.CodeUnauthenticated},
		{name: "public without a token", op: open},
		{name: "public with a valid token knows who asks", raw: "ada-token", op: open, by: ada.ID},
		{name: "public with an invalid token is anonymous", raw: "garbage", op: open},
		{name: "a runner's operation, asked with a token", raw: "chief-token", op: report, code: api.CodeDenied},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Call(as(tc.raw), c, tc.op, echoRequest{Text: "x"})
			if tc.code != "" {
				wantCode(t, err, tc.code)
				return
			}
			if err != nil || got != (echoResponse{Text: "x", By: tc.by}) {
				t.Fatalf("got %+v, %v", got, err)
			}
		})
	}
	t.Run("a forged principal in the headers gains nothing", func(t *testing.T) {
		msg := nats.NewMsg(opSubject("test", "admin"))
		msg.Data = []byte(`{"text":"x","principal":{"id":"root"}}`)
		for _, k := range []string{"Principal", "X-Principal", "Yard-Principal", "Tenant", "authorization"} {
			msg.Header[k] = []string{"chief-token"}
		}
		reply, err := connect().RequestMsg(msg, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if got := reply.Header.Get(headerError); got != string(api.CodeUnauthenticated) {
			t.Fatalf("got %q %s", got, reply.Data)
		}
	})
	t.Run("refusals are told", func(t *testing.T) {
		mu.Lock()
		defer mu.Unlock()
		all := strings.Join(denied, "\n")
		for _, want := range []string{"test.admin " + ada.ID + " denied", "test.anyone  unauthenticated", "test.report  denied"} {
			if !strings.Contains(all, want) {
				t.Errorf("no %q in\n%s", want, all)
			}
		}
	})
}

func TestSessionScoped(t *testing.T) {
	s, _, connect := newTest(t, ServerConfig{})
	c := newClient(connect(nats.CustomInboxPrefix("_INBOX_"+sessionA)), ClientConfig{Name: "runner"}) // as libs/bus sets it
	Handle(s, report, func(ctx context.Context, _ echoRequest) (echoResponse, error) {
		p, _ := api.PrincipalFrom(ctx)
		return echoResponse{Text: p.Tenant + "/" + p.Name, By: p.ID + token.Raw(ctx)}, nil
	})
	Handle(s, open, answerEcho)
	runServer(t, s)
	t.Run("is the session that the subject names", func(t *testing.T) {
		got, err := CallAsSession(as("chief-token"), c, "acme", sessionA, report, echoRequest{})
		if err != nil || got.Text != "acme/"+sessionA || got.By != sessionA {
			t.Fatalf("got %+v, %v", got, err)
		}
	})
	t.Run("other operations are not there", func(t *testing.T) {
		_, err := CallAsSession(context.Background(), c, "acme", sessionA, open, echoRequest{})
		wantCode(t, err, api.CodeUnavailable)
	})
	t.Run("a name that is no subject token is refused before it is sent", func(t *testing.T) {
		for _, tenant := range []string{"", "a.b", "*", ">", "A"} {
			_, err := CallAsSession(context.Background(), c, tenant, sessionA, report, echoRequest{})
			wantCode(t, err, api.CodeInvalid)
		}
	})
	t.Run("a subject that names no session gets no answer", func(t *testing.T) {
		nc := connect()
		heard := make(chan *nats.Msg, 10)
		for _, who := range []string{"acme.nobody", "ACME." + sessionA, "acme." + sessionA} {
			inbox := "_INBOX_" + who[strings.IndexByte(who, '.')+1:] + "." + who
			if _, err := nc.ChanSubscribe(inbox, heard); err != nil {
				t.Fatal(err)
			}
			if err := nc.PublishRequest(api.RunnerPrefix+who+".report", inbox, nil); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case msg := <-heard: // requests are taken in order
			if !strings.HasSuffix(msg.Subject, ".acme."+sessionA) {
				t.Fatalf("answer to %s", msg.Subject)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("no answer to the session")
		}
	})
	t.Run("the answer goes to an inbox of the session and nowhere else", func(t *testing.T) {
		nc := connect()
		heard := make(chan *nats.Msg, 10)
		for _, subject := range []string{"yard.v1.sessions.>", "_INBOX.gateway.>", "_INBOX_" + sessionA + ".>"} {
			if _, err := nc.ChanSubscribe(subject, heard); err != nil {
				t.Fatal(err)
			}
		}
		for _, reply := range []string{"yard.v1.sessions.acme.x", "_INBOX.gateway.x", "_INBOX_" + sessionA + ".x"} {
			if err := nc.PublishRequest(api.RunnerPrefix+"acme."+sessionA+".report", reply, nil); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case msg := <-heard: // the last request's: the server takes them in order
			if msg.Subject != "_INBOX_"+sessionA+".x" {
				t.Fatalf("answer sent to %s", msg.Subject)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("no answer at the session's own inbox")
		}
	})
}

func TestErrors(t *testing.T) {
	var logged lockedBuffer
	s, c, connect := newTest(t, ServerConfig{Logger: jsonLogger(&logged)})
	var answerWith error
	Handle(s, open, func(context.Context, echoRequest) (echoResponse, error) { return echoResponse{}, answerWith })
	Handle(s, echo, func(context.Context, echoRequest) (echoResponse, error) { panic("the handler's secret") })
	Handle(s, anyone, func(context.Context, echoRequest) (echoResponse, error) {
		return echoResponse{Text: strings.Repeat("x", 1<<20)}, nil
	})
	runServer(t, s)
	ask := func() error { _, err := Call(context.Background(), c, open, echoRequest{}); return err }

	t.Run("a coded error arrives whole", func(t *testing.T) {
		answerWith = fmt.Errorf("wrapped: %w", &api.Error{
			Code: api.CodeExhausted, Detail: "no more sessions", RetryAfter: 3 * time.Second,
			Fields: []api.FieldError{{Pointer: "/a", Detail: "b"}}, Cause: errors.New("secret"),
		})
		var e *api.Error
		if err := ask(); !errors.As(err, &e) || e.Code != api.CodeExhausted || e.Detail != "no more sessions" || e.RetryAfter != 3*time.Second ||
			len(e.Fields) != 1 || strings.Contains(err.Error(), "secret") {
			t.Fatalf("got %+v", e)
		}
	})
	t.Run("an internal error's text stays, in the log", func(t *testing.T) {
		answerWith = errors.New("password of the database is hunter2")
		err := ask()
		wantCode(t, err, api.CodeInternal)
		if strings.Contains(err.Error(), "hunter2") || !strings.Contains(logged.String(), "hunter2") {
			t.Fatalf("error %v; log %s", err, logged.String())
		}
	})
	t.Run("a panic is internal and the server lives", func(t *testing.T) {
		for range 3 {
			_, err := Call(as("ada-token"), c, echo, echoRequest{})
			wantCode(t, err, api.CodeInternal)
			if strings.Contains(err.Error(), "secret") {
				t.Fatal(err)
			}
		}
		if !strings.Contains(logged.String(), "server_test.go") {
			t.Fatal("the log has no stack")
		}
		answerWith = nil
		if err := ask(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("an answer too large is exhausted", func(t *testing.T) {
		_, err := Call(as("ada-token"), c, anyone, echoRequest{})
		wantCode(t, err, api.CodeExhausted, "ask for less")
	})
	t.Run("a request too large is invalid", func(t *testing.T) {
		_, err := Call(as("ada-token"), c, open, echoRequest{Text: strings.Repeat("x", 2<<20)})
		wantCode(t, err, api.CodeInvalid, "larger")
	})
	t.Run("an unknown verb is not found", func(t *testing.T) {
		unknown := open
		unknown.Verb = "nope"
		_, err := Call(context.Background(), c, unknown, echoRequest{})
		wantCode(t, err, api.CodeNotFound, "nope")
	})
	t.Run("an absent service is unavailable at once", func(t *testing.T) {
		away := open
		away.Service = "away"
		_, err := Call(context.Background(), c, away, echoRequest{})
		wantCode(t, err, api.CodeUnavailable, "the away service is not reachable; try again")
	})
	t.Run("a malformed request is invalid and points at the field", func(t *testing.T) {
		nc := connect()
		for data, pointer := range map[string]string{`{"text":5}`: "/text", `{"tags":[1]}`: "/tags/0", `{"text"`: "", `[]`: ""} {
			msg, err := nc.Request(opSubject("test", "open"), []byte(data), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			_, err = readReply(msg.Header, msg.Data)
			var e *api.Error
			if !errors.As(err, &e) || e.Code != api.CodeInvalid || len(e.Fields) != 1 || e.Fields[0].Pointer != pointer {
				t.Errorf("%s: got %v", data, err)
			}
		}
	})
	t.Run("a field from a newer caller is passed over", func(t *testing.T) {
		msg, err := connect().Request(opSubject("test", "open"), []byte(`{"text":"x","newer":1}`), 5*time.Second)
		if err != nil || msg.Header.Get(headerError) != "" {
			t.Fatalf("got %v %v", msg, err)
		}
	})
}

func TestConcurrency(t *testing.T) {
	const n = 8
	s, c, _ := newTest(t, ServerConfig{Concurrency: n})
	inside, leave := make(chan struct{}, n), make(chan struct{})
	Handle(s, open, func(context.Context, echoRequest) (echoResponse, error) {
		inside <- struct{}{}
		<-leave
		return echoResponse{}, nil
	})
	Handle(s, anyone, answerEcho)
	HandleLong(s, echo, time.Minute, answerEcho)
	stop := runServer(t, s)

	results := make(chan error, n)
	for range n {
		go func() { _, err := Call(context.Background(), c, open, echoRequest{}); results <- err }()
	}
	for range n { // all are inside at the same time, or this waits for ever
		<-inside
	}
	_, err := Call(as("ada-token"), c, anyone, echoRequest{})
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeExhausted || e.RetryAfter <= 0 {
		t.Fatalf("one more than the bound: got %v, want exhausted with a time to wait", err)
	}
	if _, err := Call(as("ada-token"), c, echo, echoRequest{}); err != nil {
		t.Fatalf("a wait operation has its own bound: %v", err)
	}

	// Draining lets those inside finish and takes no more.
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	eventually(t, "no more requests are taken", func() bool {
		_, err := Call(context.Background(), c, open, echoRequest{})
		return api.CodeOf(err) == api.CodeUnavailable
	})
	select {
	case err := <-stopped:
		t.Fatalf("Run returned (%v) with operations in flight", err)
	default:
	}
	close(leave)
	for range n {
		if err := <-results; err != nil {
			t.Errorf("an operation in flight when the server stopped: %v", err)
		}
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
}

func TestStopEndsWaiting(t *testing.T) {
	s, c, _ := newTest(t, ServerConfig{})
	inside := make(chan struct{})
	HandleLong(s, open, time.Hour, func(ctx context.Context, _ echoRequest) (echoResponse, error) {
		close(inside)
		<-ctx.Done()
		return echoResponse{Text: "as far as I got"}, nil
	})
	stop := runServer(t, s)
	result := make(chan string, 1)
	go func() {
		got, err := Call(context.Background(), c, open, echoRequest{})
		result <- fmt.Sprint(got.Text, err)
	}()
	<-inside
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := <-result; got != "as far as I got<nil>" {
		t.Fatal(got)
	}
}

func TestDeadline(t *testing.T) {
	s, c, connect := newTest(t, ServerConfig{Timeout: time.Minute})
	var handled atomic.Int32
	Handle(s, open, func(ctx context.Context, _ echoRequest) (echoResponse, error) {
		handled.Add(1)
		at, _ := ctx.Deadline()
		return echoResponse{Text: strconv.FormatInt(at.UnixMilli(), 10)}, nil
	})
	Handle(s, anyone, func(ctx context.Context, _ echoRequest) (echoResponse, error) {
		<-ctx.Done()
		return echoResponse{}, ctx.Err()
	})
	runServer(t, s)
	t.Run("of the caller is the handler's", func(t *testing.T) {
		at := time.Now().Add(7 * time.Second)
		ctx, cancel := context.WithDeadline(context.Background(), at)
		defer cancel()
		got, err := Call(ctx, c, open, echoRequest{})
		if err != nil || got.Text != strconv.FormatInt(at.UnixMilli(), 10) {
			t.Fatalf("got %v %v, want %d", got, err, at.UnixMilli())
		}
	})
	t.Run("is never later than the server's own", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		got, err := Call(ctx, c, open, echoRequest{})
		ms, _ := strconv.ParseInt(got.Text, 10, 64)
		if left := time.Until(time.UnixMilli(ms)); err != nil || left > time.Minute {
			t.Fatalf("%v left, %v", left, err)
		}
	})
	t.Run("that passed drops the request", func(t *testing.T) {
		nc, before := connect(), handled.Load()
		late := nats.NewMsg(opSubject("test", "open"))
		late.Header[headerDeadline] = []string{strconv.FormatInt(time.Now().Add(-time.Second).UnixMilli(), 10)}
		late.Reply = nats.NewInbox()
		if err := nc.PublishMsg(late); err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Request(opSubject("test", "open"), nil, 5*time.Second); err != nil { // a later one is answered
			t.Fatal(err)
		}
		if got := handled.Load() - before; got != 1 {
			t.Fatalf("%d requests were handled, want the one in time", got)
		}
	})
	t.Run("ends the call", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(as("ada-token"), 30*time.Millisecond)
		defer cancel()
		_, err := Call(ctx, c, anyone, echoRequest{})
		wantCode(t, err, api.CodeUnavailable)
	})
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	s, _, connect := newTest(t, ServerConfig{Metrics: reg})
	newServer(connect(), ServerConfig{Service: "other", Metrics: reg}) // a second service of the process
	Handle(s, open, answerEcho)
	Handle(s, echo, func(context.Context, echoRequest) (echoResponse, error) { panic("x") })
	runServer(t, s)
	c := newClient(connect(), ClientConfig{Name: "asker", Metrics: reg})
	_, _ = Call(context.Background(), c, open, echoRequest{})
	_, _ = Call(as("ada-token"), c, echo, echoRequest{})
	for _, want := range []string{
		"yard_op_duration_seconds code=ok op=open service=test ",
		"yard_op_duration_seconds code=internal op=echo service=test ",
		"yard_call_duration_seconds caller=asker code=ok op=open service=test ",
	} {
		if got := gathered(t, reg); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func gathered(t *testing.T, reg *prometheus.Registry) string {
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		for _, m := range f.GetMetric() {
			b.WriteString(f.GetName() + " ")
			for _, l := range m.GetLabel() {
				b.WriteString(l.GetName() + "=" + l.GetValue() + " ")
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}
