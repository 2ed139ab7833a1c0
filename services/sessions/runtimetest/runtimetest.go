// Package runtimetest is the behaviour that every sessions.Runtime has.
package runtimetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/launch"
)

// Env is the place in which a runtime is tested, a new one for each test. Its runner is a program that, once told its launch, is "up", ends on a graceful stop
// (unless the launch's Env has Stubborn), and, with Env Daemons, starts an agent in its sandbox that leaves detached processes.
type Env interface {
	// New returns a runtime on this place that works until the test ends. Another one that works there must have ended.
	New(t *testing.T) sessions.Runtime
	// Crashed starts l with a runtime in another process, waits until the runner is up and kills that process with SIGKILL.
	Crashed(t *testing.T, l launch.Launch)
	// Up waits until the session's runner of that incarnation, with the daemons that were asked for, is up.
	Up(t *testing.T, s sessions.Ref, incarnation int)
	// Kill kills the session's runner, and nothing else, from outside the runtime.
	Kill(t *testing.T, s sessions.Ref)
	// Processes counts the processes of the session, daemons included.
	Processes(t *testing.T, s sessions.Ref) int
	// Keep puts a file into the session's workspace; Kept reports whether it is there.
	Keep(t *testing.T, s sessions.Ref)
	Kept(t *testing.T, s sessions.Ref) bool
}

// What a launch's Env asks of the runner.
const (
	Stubborn = "RUNTIMETEST_STUBBORN"
	Daemons  = "RUNTIMETEST_DAEMONS"
)

const (
	patience = 20 * time.Second
	grace    = 10 * time.Second
	short    = 200 * time.Millisecond
)

// Run runs the suite, each test in an Env of its own.
func Run(t *testing.T, newEnv func(*testing.T) Env) {
	for name, test := range map[string]func(*testing.T, Env){
		"a started runner is listed":                          started,
		"starting again is nothing":                           again,
		"the next incarnation replaces the one before":        replaced,
		"an incarnation that ended is not started again":      ended,
		"a stop that keeps leaves the workspace":              keep,
		"a stop that does not keep leaves nothing":            discard,
		"stopping what is gone is success":                    gone,
		"a runner that does not end is killed":                stubborn,
		"a stop leaves no process":                            orphans,
		"a runner's death leaves no process":                  death,
		"a runner survives its owner and is adopted":          adopted,
		"a death that nobody watched is told at the next run": unwatched,
	} {
		t.Run(name, func(t *testing.T) { test(t, newEnv(t)) })
	}
}

// Launch returns the launch of a new session's first incarnation.
func Launch(env ...string) launch.Launch {
	l := launch.Launch{
		Tenant: "default", Session: api.NewID(api.KindSession), Incarnation: 1, EndpointKey: "k",
		Agent: api.Agent{Kind: "demo"}, Env: map[string]string{},
		Pod: launch.Pod{Pod: api.Pod{Volume: &api.Volume{Bytes: 16 << 20}}}, // for a workspace that can be kept
	}
	for _, name := range env {
		l.Env[name] = "1"
	}
	return l
}

func ref(l launch.Launch) sessions.Ref { return sessions.Ref{Tenant: l.Tenant, Session: l.Session} }

func start(t *testing.T, env Env, r sessions.Runtime, l launch.Launch) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	i, err := r.Start(ctx, l)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	if i.Ref != ref(l) || i.Incarnation != l.Incarnation {
		t.Fatalf("started %+v", i)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = r.Stop(ctx, ref(l), short, false)
	})
	env.Up(t, ref(l), l.Incarnation)
}

func stop(t *testing.T, r sessions.Runtime, l launch.Launch, grace time.Duration, keep bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.Stop(ctx, ref(l), grace, keep); err != nil {
		t.Fatalf("stop: %v", err)
	}
}

func list(t *testing.T, r sessions.Runtime) []sessions.Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l, err := r.List(ctx)
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	return l
}

// exit waits for the end of one incarnation and for nothing else.
func exit(t *testing.T, r sessions.Runtime, l launch.Launch) sessions.Exit {
	t.Helper()
	select {
	case x := <-r.Exits():
		if x.Ref != ref(l) || x.Incarnation != l.Incarnation || x.Reason == "" {
			t.Fatalf("told of %+v", x)
		}
		return x
	case <-time.After(patience):
		t.Fatal("the end was not told")
	}
	return sessions.Exit{}
}

func quiet(t *testing.T, r sessions.Runtime) {
	t.Helper()
	select {
	case x := <-r.Exits():
		t.Errorf("told of %+v", x)
	default:
	}
}

func none(t *testing.T, env Env, l launch.Launch) {
	t.Helper()
	deadline := time.After(patience)
	for env.Processes(t, ref(l)) > 0 {
		select {
		case <-deadline:
			t.Fatalf("%d processes are left", env.Processes(t, ref(l)))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func started(t *testing.T, env Env) {
	r := env.New(t)
	if l := list(t, r); len(l) != 0 {
		t.Fatalf("at the beginning there is %+v", l)
	}
	a, b := Launch(), Launch()
	start(t, env, r, a)
	start(t, env, r, b)
	if l := list(t, r); len(l) != 2 {
		t.Fatalf("listed: %+v", l)
	}
	stop(t, r, a, grace, false)
	if l := list(t, r); len(l) != 1 || l[0].Ref != ref(b) || l[0].Incarnation != 1 {
		t.Fatalf("after a stop: %+v", l)
	}
	exit(t, r, a)
}

func again(t *testing.T, env Env) {
	r, l := env.New(t), Launch()
	start(t, env, r, l)
	n := env.Processes(t, ref(l))
	start(t, env, r, l)
	if now := env.Processes(t, ref(l)); now != n || n == 0 {
		t.Errorf("%d processes became %d", n, now)
	}
	quiet(t, r)
}

func replaced(t *testing.T, env Env) {
	r, first := env.New(t), Launch()
	start(t, env, r, first)
	second := first
	second.Incarnation = 2
	start(t, env, r, second)
	exit(t, r, first)
	if l := list(t, r); len(l) != 1 || l[0].Incarnation != 2 {
		t.Errorf("listed: %+v", l)
	}
	if _, err := r.Start(t.Context(), first); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("the first again: %v", err)
	}
}

func ended(t *testing.T, env Env) {
	r, l := env.New(t), Launch()
	start(t, env, r, l)
	env.Kill(t, ref(l))
	if x := exit(t, r, l); x.Unwatched {
		t.Errorf("told of %+v", x)
	}
	if _, err := r.Start(t.Context(), l); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("started again: %v", err)
	}
	l.Incarnation++
	start(t, env, r, l)
}

func keep(t *testing.T, env Env) {
	r, l := env.New(t), Launch()
	start(t, env, r, l)
	env.Keep(t, ref(l))
	stop(t, r, l, grace, true)
	exit(t, r, l)
	if len(list(t, r)) != 0 || !env.Kept(t, ref(l)) {
		t.Fatalf("listed %+v, kept %v", list(t, r), env.Kept(t, ref(l)))
	}
	l.Incarnation++
	start(t, env, r, l)
	if !env.Kept(t, ref(l)) {
		t.Error("the next start lost the workspace")
	}
}

func discard(t *testing.T, env Env) {
	r, l := env.New(t), Launch()
	start(t, env, r, l)
	env.Keep(t, ref(l))
	stop(t, r, l, grace, false)
	if env.Kept(t, ref(l)) {
		t.Error("the workspace is still there")
	}
	none(t, env, l)
}

func gone(t *testing.T, env Env) {
	r, l := env.New(t), Launch()
	stop(t, r, l, grace, false)
	stop(t, r, l, grace, true)
	start(t, env, r, l)
	for range 2 {
		stop(t, r, l, grace, true)
	}
	for range 2 {
		stop(t, r, l, grace, false)
	}
	exit(t, r, l)
	quiet(t, r)
}

func stubborn(t *testing.T, env Env) {
	r, l := env.New(t), Launch(Stubborn, Daemons)
	start(t, env, r, l)
	begin := time.Now()
	stop(t, r, l, short, false)
	if took := time.Since(begin); took < short || took > patience/2 {
		t.Errorf("took %s", took)
	}
	exit(t, r, l)
	none(t, env, l)
}

func orphans(t *testing.T, env Env) {
	r, l := env.New(t), Launch(Daemons)
	start(t, env, r, l)
	if n := env.Processes(t, ref(l)); n < 3 {
		t.Fatalf("only %d processes: the daemons are missing", n)
	}
	stop(t, r, l, grace, false)
	none(t, env, l)
}

func death(t *testing.T, env Env) {
	r, l := env.New(t), Launch(Daemons)
	start(t, env, r, l)
	env.Kill(t, ref(l))
	exit(t, r, l)
	none(t, env, l)
	if l := list(t, r); len(l) != 0 {
		t.Errorf("listed: %+v", l)
	}
	quiet(t, r)
}

func adopted(t *testing.T, env Env) {
	l := Launch(Daemons)
	env.Crashed(t, l)
	if env.Processes(t, ref(l)) < 3 {
		t.Fatal("the runner died with its owner")
	}
	r := env.New(t)
	t.Cleanup(func() { _ = r.Stop(context.Background(), ref(l), short, false) })
	if l := list(t, r); len(l) != 1 || l[0].Incarnation != 1 {
		t.Fatalf("listed: %+v", l)
	}
	quiet(t, r)
	if _, err := r.Start(t.Context(), l); err != nil {
		t.Errorf("starting what was adopted: %v", err)
	}
	env.Kill(t, ref(l))
	exit(t, r, l)
	none(t, env, l)
	l.Incarnation++
	start(t, env, r, l)
	stop(t, r, l, grace, false)
	none(t, env, l)
}

func unwatched(t *testing.T, env Env) {
	l := Launch()
	env.Crashed(t, l)
	env.Kill(t, ref(l))
	none(t, env, l)
	r := env.New(t)
	if x := exit(t, r, l); !x.Unwatched {
		t.Errorf("told of %+v", x)
	}
	if list := list(t, r); len(list) != 0 {
		t.Errorf("listed: %+v", list)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := r.Start(ctx, l); api.CodeOf(err) != api.CodeConflict || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("started again: %v", err)
	}
	stop(t, r, l, grace, false)
}
