// Package runner is the program inside every session: it starts the session's agent,
// drives it through an adapter, and keeps the session's log.
//
// It takes people's messages, answers and interruptions from the user's side of the log
// and writes what the agent does to the agent's side. One turn runs for each message, in
// order. Its end, the last agent_message and the idle status, is one atomic commit, so a
// message whose end is not in the log is driven again by the next runner and one whose
// end is there never is: each message is answered exactly once, whatever dies when.
//
// Beside that it serves the session's HTTP surface (agentapi contract, files, ports) and
// reports to the sessions service.
package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/runner/acp"
	"agentyard.dev/services/sessions/runner/agent"
	"agentyard.dev/services/sessions/runner/claude"
	"agentyard.dev/services/sessions/runner/terminal"
	"agentyard.dev/services/sessions/sandbox"
)

// Options is what a runner needs that a launch does not say.
type Options struct {
	Logger *slog.Logger
	Self   string // this program's executable, for the built-in agents
	Path   string // of the agent's PATH; empty: a usual one
	Ahead  *Ahead // what was started before the launch was known; Run ends it
	Up     func() // called once, when the agent is up for the first time; nil: nobody asks
	// Network is the session's own, as launch.Sandbox.Network describes it; nil: it has the machine's.
	Network *sandbox.Network
}

// errStopped says that the sessions service wants this runner no more.
var errStopped = errors.New("the session has ended or another runner has taken over")

// runner drives one incarnation of one session.
type runner struct {
	launch launch.Launch
	kind   agent.Kind
	self   string
	log    *slog.Logger

	network *sandbox.Network // nil: the machine's
	gate    *gate

	conn     *bus.Conn
	client   *rpc.Client
	appender *bus.Appender
	start    agent.Starter
	spawn    agent.Spawner
	sink     agent.Sink

	ahead   atomic.Pointer[Ahead] // nil when it was taken or there is none
	early   *earlyStart           // likewise
	up      func()                // nil when it was called
	kept    []*keptFile           // only the goroutine that keeps them uses them
	budget  *budget
	queue   *queue
	state   *state
	talk    *conversation
	current atomic.Pointer[turn]        // nil between turns
	typist  atomic.Pointer[agent.Agent] // nil while there is no agent
	pushing sync.Mutex                  // held while the workspace is pushed

	background background
}

// starters maps protocols to adapters.
func starters() map[agent.Protocol]agent.Starter {
	return map[agent.Protocol]agent.Starter{
		agent.ProtocolACP: acp.Start, agent.ProtocolClaude: claude.Start, agent.ProtocolTerminal: terminal.Start,
	}
}

// Run drives the session until ctx ends (a graceful stop: the agent is ended, the log
// flushed, and nil returned), the sessions service wants it no more, or it cannot go on,
// which it has then reported as failed.
func Run(ctx context.Context, l launch.Launch, opts Options) error {
	kind, ok := agent.LookupKind(l.Agent.Kind)
	if ahead := opts.Ahead; ahead != nil && (!ok || kind.Protocol == agent.ProtocolTerminal) { // it has pipes, no terminal
		opts.Ahead = nil
		ahead.drop()
	}
	if !ok {
		return api.Invalid("/agent/kind", "there is no kind of agent called %q", l.Agent.Kind)
	}
	r := &runner{
		launch: l, kind: kind, self: opts.Self, log: opts.Logger.With("tenant", l.Tenant, "session", l.Session),
		start: starters()[kind.Protocol], budget: newBudget(logBudget), up: opts.Up,
		network: opts.Network,
	}
	r.sink = sink{r}
	r.ahead.Store(opts.Ahead)
	defer func() {
		if a := r.ahead.Swap(nil); a != nil {
			a.drop()
		}
	}()
	if err := r.makeDirs(); err != nil {
		return err
	}
	if err := r.furnish(); err != nil {
		return err
	}
	r.spawn = r.spawner(opts.Path)
	listener, endpoint, err := listen(ctx, l.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	if l.Endpoint != "" {
		endpoint = l.Endpoint
	}
	if r.network != nil {
		servers, err := nameServers()
		if err != nil {
			return err
		}
		relaying, stop := context.WithCancel(ctx)
		relays, err := startRelays(relaying, r.network, l.Sandbox.Network.Loopback, servers, r.log)
		defer func() {
			stop()
			relays.Wait()
		}()
		if err != nil {
			return err
		}
	}
	r.gate = r.openGate(ctx)
	if r.early = r.startEarly(ctx); r.early != nil {
		defer r.early.drop()
	}
	defer r.gate.close()
	r.conn, err = bus.Connect(bus.Config{URL: l.BusURL, Credentials: l.Credentials, Name: "runner-" + l.Session, Logger: r.log})
	if err != nil {
		return err
	}
	defer func() {
		bye, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		_ = r.conn.Close(bye) // everything that matters was flushed
	}()
	r.client = rpc.NewClient(r.conn, rpc.ClientConfig{Name: "runner", Timeout: callTimeout})
	resume, err := r.resume(ctx)
	if err != nil {
		return nil // told to stop before the yard was there
	}
	r.queue = newQueue(resume.InterruptSeq)
	r.talk = newConversation(resume.Conversation)
	r.state = newState(l.Incarnation, api.Agent{Kind: kind.Name, Version: l.Agent.Version}, endpoint, resume)
	r.state.now.Address = l.Sandbox.Network.Address
	r.appender = bus.NewAppender(r.conn, l.Tenant, l.Session, resume.LastSeq, r.position)
	return r.run(ctx, listener, resume.DoneSeq)
}

// run runs the parts until one ends, and ends the others: the log last.
func (r *runner) run(ctx context.Context, listener net.Listener, after uint64) error {
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	unstopped := context.AfterFunc(work, r.gate.stop)
	defer unstopped()
	keep, drop := context.WithCancel(context.WithoutCancel(ctx))
	defer drop()
	var parts, log sync.WaitGroup
	part := func(wg *sync.WaitGroup, ctx context.Context, f func(context.Context) error) {
		wg.Go(func() {
			err := f(ctx)
			if err == nil {
				err = context.Canceled
			}
			cancel(err)
		})
	}
	part(&log, keep, r.appender.Run)
	part(&parts, work, func(ctx context.Context) error { return r.serve(ctx, listener) })
	part(&parts, work, r.report)
	part(&parts, work, func(ctx context.Context) error { return r.follow(ctx, after) })
	part(&parts, work, r.work)
	part(&parts, work, r.keep)
	part(&parts, work, r.watchBackground)
	parts.Wait()
	r.keepLast()
	err := context.Cause(work)
	failed := ctx.Err() == nil && !errors.Is(err, errStopped) && !errors.Is(err, bus.ErrSuperseded)
	if failed {
		r.fail(err)
	}
	drop()
	log.Wait()
	switch {
	case ctx.Err() != nil || errors.Is(err, errStopped):
		return nil
	default:
		return err
	}
}

// fail reports that the session cannot go on, and why.
func (r *runner) fail(err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lastReport)
	defer cancel()
	reason := api.Redact(err).Detail
	if api.CodeOf(err) == api.CodeInternal {
		reason = clip(err.Error()) // the session's own agent and repository: its owner may know
	}
	_ = r.append(ctx, api.Event{Type: api.EventError, Code: api.CodeOf(err), Detail: reason})
	_ = r.appender.Flush(ctx)
	r.state.change(func(now *api.RunnerReportRequest) { now.State, now.Activity, now.Reason = api.StateFailed, "", reason })
	if _, rerr := r.reportOnce(ctx, lastReport); rerr != nil {
		r.log.Warn("report", "op", api.RunnerReport.Verb, "code", api.CodeOf(rerr), "err", rerr)
	}
}

// resume asks where the runner before this one left off, for as long as it takes.
func (r *runner) resume(ctx context.Context) (api.RunnerResumeResponse, error) {
	var res api.RunnerResumeResponse
	err := r.persist(ctx, "ask for the position", func(ctx context.Context) (err error) {
		res, err = rpc.CallAsSession(ctx, r.client, r.launch.Tenant, r.launch.Session, api.RunnerResume, api.None{})
		return err
	})
	return res, err
}

// position tells the appender which entry of ours is the log's last.
func (r *runner) position(ctx context.Context) (uint64, string, error) {
	res, err := rpc.CallAsSession(ctx, r.client, r.launch.Tenant, r.launch.Session, api.RunnerResume, api.None{})
	return res.LastSeq, res.LastWriter, err
}

// work clones the repository, keeps the agent running and runs turns until ctx ends.
func (r *runner) work(ctx context.Context) error {
	if err := r.clone(ctx); err != nil {
		return err
	}
	s := &supervisor{r: r}
	defer s.close()
	for {
		if !s.alive() {
			if err := s.ensure(ctx); err != nil {
				return err
			}
			if err := r.append(ctx, statusEvent(api.ActivityIdle, "", r.state.mark())); err != nil {
				return err
			}
		}
		t := r.newTurn()
		ok, err := r.queue.next(ctx, t, s.gone())
		switch {
		case err != nil:
			return err
		case !ok:
			r.log.Warn("the agent process ended between turns", "op", "agent")
			ev := api.Event{Type: api.EventError, Code: api.CodeUnavailable, Detail: "the agent process ended; it is being restarted"}
			if err := r.append(ctx, ev); err != nil {
				return err
			}
			continue
		}
		if err := r.turn(ctx, s, t); err != nil {
			return err
		}
	}
}

// turn runs one message's turn and returns when its end is kept.
func (r *runner) turn(ctx context.Context, s *supervisor, t *turn) error {
	defer r.queue.done()
	r.current.Store(t)
	defer r.current.Store(nil)
	t.began = time.Now()
	r.talk.user(t.item.MessageID, t.item.Content)
	if t.item.own {
		if err := r.append(ctx, t.item.Event); err != nil {
			return err
		}
	}
	if err := r.append(ctx, t.status(api.ActivityWorking)); err != nil {
		return err
	}
	r.background.begin()
	r.state.set(api.ActivityWorking)
	if t.item.started != nil {
		close(t.item.started)
	}
	note, err := "", error(nil)
	if t.item.Renew != nil {
		note, err = s.renew(ctx, t)
	}
	if err == nil && note == "" && !s.alive() {
		err = s.ensure(ctx)
	}
	if err == nil && note == "" {
		note, err = s.prompt(ctx, t)
	}
	if err != nil {
		return err
	}
	if err := t.end(ctx, note); err != nil {
		return err
	}
	if err := r.appender.Flush(ctx); err != nil {
		return err
	}
	left := r.background.count()
	r.state.change(func(now *api.RunnerReportRequest) { now.Activity, now.Background = api.ActivityIdle, left })
	return nil
}

// append puts events on the agent's side of the log, together.
func (r *runner) append(ctx context.Context, evs ...api.Event) error {
	now := time.Now().UTC()
	r.state.touch(now)
	for i := range evs {
		evs[i].At = now
		if evs[i].Type == api.EventAgentMessage {
			r.talk.agent(evs[i])
		}
	}
	if evs = r.budget.admit(evs); len(evs) == 0 {
		return nil
	}
	return r.appender.Append(ctx, evs...)
}

// sink is the agent.Sink: it belongs to the turn that is current.
type sink struct{ r *runner }

func (s sink) Emit(ctx context.Context, ev api.Event) error {
	if t := s.r.current.Load(); t != nil {
		return t.emit(ctx, ev)
	}
	if ev.Type != api.EventTerminal {
		return nil // what an agent says between turns answers nobody
	}
	return s.r.append(ctx, ev)
}

func (s sink) Ask(ctx context.Context, ev api.Event) (string, error) {
	t := s.r.current.Load()
	if t == nil {
		return "", errors.New("no turn is under way")
	}
	return t.ask(ctx, ev)
}

// listen opens the runner's endpoint and returns the form in which others reach it.
func listen(ctx context.Context, addr string) (net.Listener, string, error) {
	network, address, ok := cutAddress(addr)
	if !ok {
		return nil, "", api.Invalid("/listen", "%q is neither unix:/path nor tcp:host:port", addr)
	}
	if network == "unix" {
		// A socket that a killed runner left behind.
		if err := os.Remove(address); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, "", fmt.Errorf("listen: %w", err)
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return nil, "", fmt.Errorf("listen: %w", err)
	}
	if network == "unix" {
		if err := os.Chmod(address, 0o600); err != nil {
			l.Close()
			return nil, "", fmt.Errorf("listen: %w", err)
		}
		return l, "unix:" + address, nil
	}
	return l, "http://" + l.Addr().String(), nil
}
