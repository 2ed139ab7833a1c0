// Package process is the runtime that runs sessions as local processes: it starts a runner for each, in a session directory of its own,
// and finds them again after it was restarted.
//
// A runner is the leader of a process session of its own and survives the service. What is needed to adopt it is in its instance file (process id, start time and boot, so that
// a reused process id is not mistaken for it). The runner learns everything else on its standard input, after the instance
// file is written: a service that dies in between leaves a runner without a launch, which ends by itself.
package process

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/sandbox"
)

// Name is the runtime's name in Session.Runtime.
const Name = "process"

// Config says where and how sessions run.
type Config struct {
	DataDir   string   // holds sessions/<id>/; made with mode 0711 for root (whose sessions have other uids), else 0700
	SocketDir string   // of the runners' sockets; empty: a short path in XDG_RUNTIME_DIR or /tmp
	Runner    []string // the runner's command; empty: this executable with the argument "runner"
	Path      string   // PATH of runners and agents; empty: the service's
	Node      string   // the machine's name; empty: the host name
	// Hide lists directories and files that agents must not see besides DataDir, SocketDir and the service user's home.
	Hide []string
	// UIDBase and UIDCount are the user ids for sessions when the service is root.
	UIDBase, UIDCount int
	// Resources bound a session whose profile says nothing.
	Resources api.Resources
	// Spare keeps one runner started that waits for the next session, so that this one starts in half the time.
	Spare bool
	// Network gives each session a network namespace of its own, for which this machine routes; it needs root on Linux.
	Network bool
	// NetworkPool is where sessions' addresses are from, NetworkLoopback lists addresses on the machine's loopback that sessions may reach.
	NetworkPool     string
	NetworkLoopback []string
	// NetworkHold is how long a session's agent is not started while the machine's node agent does not have the session's traffic plan in force.
	NetworkHold time.Duration
}

// DefaultConfig returns the defaults: no bound but on processes.
func DefaultConfig() Config {
	return Config{UIDBase: 200_000, UIDCount: 50_000, Resources: api.Resources{Processes: 4096}, Spare: true, NetworkPool: "10.213.0.0/16", NetworkHold: 5 * time.Second}
}

// Register adds the flags of c to fs with c's current values as defaults.
func (c *Config) Register(fs *flag.FlagSet) {
	fs.StringVar(&c.DataDir, "sessions.data-dir", c.DataDir, "directory of the sessions' workspaces")
	fs.StringVar(&c.SocketDir, "sessions.socket-dir", c.SocketDir, "directory of the runners' sockets; empty: in XDG_RUNTIME_DIR or /tmp")
	fs.StringVar(&c.Node, "sessions.node", c.Node, "name of this machine; empty: the host name")
	fs.IntVar(&c.UIDBase, "sessions.uid-base", c.UIDBase, "first of the user ids that root gives to sessions")
	fs.IntVar(&c.UIDCount, "sessions.uid-count", c.UIDCount, "number of these user ids")
	fs.BoolVar(&c.Spare, "sessions.spare", c.Spare, "keep one runner started for the next session")
	fs.BoolVar(&c.Network, "sessions.network", c.Network, "give each session a network of its own, so that its traffic can be controlled; needs root on Linux, ip and nft")
	fs.StringVar(&c.NetworkPool, "sessions.network-pool", c.NetworkPool, "IPv4 `network` of the sessions' addresses")
	fs.DurationVar(&c.NetworkHold, "sessions.network-hold", c.NetworkHold,
		"with a network of its own, how long a session waits for its traffic plan to be in force before its agent starts without; 0: not at all")
	fs.Func("sessions.network-loopback", "`address:port`s on this machine's loopback that sessions reach, comma-separated", func(list string) error {
		c.NetworkLoopback = strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
		return nil
	})
	fs.IntVar(&c.Resources.Processes, "sessions.max-processes", c.Resources.Processes, "processes of a session whose profile says nothing; 0: no bound")
}

// Runtime implements sessions.Runtime.
type Runtime struct {
	cfg     Config
	log     *slog.Logger
	exits   chan sessions.Exit
	loaded  chan struct{} // closed when what earlier processes left is known
	loadErr error         // written before loaded is closed

	network *addresses      // nil: sessions have the machine's
	ctx     context.Context // of the watchers: Run's
	wg      sync.WaitGroup  // of the watchers and removals

	mu      sync.Mutex
	slots   map[string]*slot // by session
	uids    map[int]string   // session by user id
	tools   []string         // what shown returned at toolsAt
	toolsAt time.Time
	spare   *spare        // nil: none is there
	taken   chan struct{} // closed when spare is taken
}

// slot is what is known of one session's runner. mu is held while it is started or stopped.
type slot struct {
	mu   sync.Mutex
	last *instance     // the newest incarnation, running or not; nil: none
	done chan struct{} // closed when last has ended; nil when it had before
}

const (
	exitBuffer = 1024
	// killWait bounds how long the kernel may take to end what was killed.
	killWait = 10 * time.Second
	// supersedeGrace is what a runner gets that another incarnation replaces.
	supersedeGrace = 5 * time.Second
	// logEvery is how often runners' logs are looked at, maxLog what one may grow to in between, more or less.
	logEvery = 30 * time.Second
	maxLog   = 1 << 20
)

// New returns a runtime that has done nothing yet.
func New(cfg Config, logger *slog.Logger) *Runtime {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	// The configuration is read by whoever asks from here on, so it changes no more.
	if abs, err := filepath.Abs(cfg.DataDir); err == nil && cfg.DataDir != "" {
		cfg.DataDir = abs
	}
	return &Runtime{
		cfg: cfg, log: logger, exits: make(chan sessions.Exit, exitBuffer), loaded: make(chan struct{}),
		slots: map[string]*slot{}, uids: map[int]string{},
	}
}

// NodeName is the name of the machine that sessions run on.
func (c Config) NodeName() string {
	if c.Node != "" {
		return c.Node
	}
	name, _ := os.Hostname()
	return name
}

// Info returns what the sessions service tells and asks of this runtime.
func (r *Runtime) Info() sessions.RuntimeInfo {
	return sessions.RuntimeInfo{
		Name: Name, Node: r.cfg.NodeName(),
		Isolation: func() []string { return sandbox.Probe().Isolation() },
		Lacks:     func(want []string) []string { return sandbox.Probe().Lacks(want) },
	}
}

// Run adopts what earlier processes started and watches all runners until ctx ends. The runners go on. The other methods wait for it.
func (r *Runtime) Run(ctx context.Context) error {
	r.ctx = ctx
	defer r.closeNetwork()
	defer r.wg.Wait()
	if err := r.load(); err != nil {
		r.loadErr = fmt.Errorf("process runtime: %w", err)
		close(r.loaded)
		return r.loadErr
	}
	close(r.loaded)
	r.wg.Go(func() {
		sandbox.Probe() // which takes a moment, so that the first session need not wait
		if r.cfg.Spare {
			r.keepSpare(ctx)
		}
	})
	tick := time.NewTicker(logEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.trimLogs()
		}
	}
}

// Ready waits until Run has adopted what there was.
func (r *Runtime) Ready(ctx context.Context) error {
	select {
	case <-r.loaded:
		return r.loadErr
	case <-ctx.Done():
		return api.Errorf(api.CodeUnavailable, "the process runtime is starting")
	}
}

// load prepares the directories and takes up every session found in them.
func (r *Runtime) load() error {
	if err := r.prepareDirs(); err != nil {
		return err
	}
	if r.cfg.Network {
		var err error
		if r.network, err = r.openNetwork(); err != nil {
			r.log.Warn("sessions have no network of their own: their traffic is not controlled", "err", err)
		}
	}
	entries, err := os.ReadDir(r.sessionsDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if isTrash(e.Name()) {
			r.removeLater(filepath.Join(r.sessionsDir(), e.Name()))
			continue
		}
		if !e.IsDir() || !api.ValidID(api.KindSession, e.Name()) {
			continue
		}
		r.reclaimUID(e.Name())
		i, err := readInstance(r.dir(e.Name()))
		if err != nil {
			r.log.Warn("read instance", "session", e.Name(), "err", err)
			continue
		}
		s := r.slot(e.Name())
		s.last = i
		if i.Ended {
			continue
		}
		r.network.keep(i.Address)
		s.done = make(chan struct{})
		r.watch(i, nil, s.done) // of one that is dead already it tells at once
	}
	return nil
}

func (r *Runtime) slot(session string) *slot {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slots[session]
	if s == nil {
		s = &slot{}
		r.slots[session] = s
	}
	return s
}

// Start implements sessions.Runtime.
func (r *Runtime) Start(ctx context.Context, l launch.Launch) (sessions.Instance, error) {
	if err := r.Ready(ctx); err != nil {
		return sessions.Instance{}, err
	}
	if !api.ValidID(api.KindSession, l.Session) || !api.ValidName(l.Tenant) || l.Incarnation <= 0 {
		return sessions.Instance{}, api.Invalid("/session", "is not a session that can be started")
	}
	s := r.slot(l.Session)
	s.mu.Lock()
	defer s.mu.Unlock()
	out := sessions.Instance{Ref: sessions.Ref{Tenant: l.Tenant, Session: l.Session}, Incarnation: l.Incarnation}
	if last := s.last; last != nil {
		switch {
		case s.running() && last.Incarnation == l.Incarnation:
			return out, nil
		case last.Incarnation >= l.Incarnation:
			return out, api.Errorf(api.CodeConflict, "incarnation %d of this session has ended or was replaced", l.Incarnation)
		case s.running():
			if err := r.end(ctx, s, supersedeGrace); err != nil {
				return out, fmt.Errorf("end the runner before: %w", err)
			}
		}
	}
	i, started, err := r.spawn(l)
	if err != nil {
		return out, err
	}
	s.last, s.done = i, make(chan struct{})
	r.watch(i, started, s.done)
	return out, nil
}

// running reports whether the newest incarnation runs. It needs s.mu.
func (s *slot) running() bool {
	if s.last == nil || s.done == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Stop implements sessions.Runtime.
func (r *Runtime) Stop(ctx context.Context, ref sessions.Ref, grace time.Duration, keep bool) error {
	if err := r.Ready(ctx); err != nil {
		return err
	}
	if !api.ValidID(api.KindSession, ref.Session) {
		return nil // nothing of that name was ever started
	}
	s := r.slot(ref.Session)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running() {
		if err := r.end(ctx, s, grace); err != nil {
			return err
		}
	}
	if keep {
		return nil
	}
	if err := r.discard(ref.Session); err != nil {
		return err
	}
	s.last, s.done = nil, nil
	r.mu.Lock()
	if r.slots[ref.Session] == s {
		delete(r.slots, ref.Session)
	}
	r.mu.Unlock()
	return nil
}

// List implements sessions.Runtime.
func (r *Runtime) List(ctx context.Context) ([]sessions.Instance, error) {
	if err := r.Ready(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	names := make([]string, 0, len(r.slots))
	for name := range r.slots {
		names = append(names, name)
	}
	r.mu.Unlock()
	slices.Sort(names)
	var list []sessions.Instance
	for _, name := range names {
		s := r.slot(name)
		s.mu.Lock()
		if s.running() {
			list = append(list, sessions.Instance{
				Ref: sessions.Ref{Tenant: s.last.Tenant, Session: s.last.Session}, Incarnation: s.last.Incarnation,
			})
		}
		s.mu.Unlock()
	}
	return list, nil
}

// Exits implements sessions.Runtime.
func (r *Runtime) Exits() <-chan sessions.Exit { return r.exits }

// end ends the running incarnation of s, gracefully for grace. It needs s.mu.
func (r *Runtime) end(ctx context.Context, s *slot, grace time.Duration) error {
	i := s.last
	i.signal(terminate)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-s.done:
		return nil
	case <-timer.C:
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return api.Errorf(api.CodeUnavailable, "stop runner: %w", ctx.Err()) // the service itself stops; the next goes on
		}
	}
	i.signal(kill)
	bound := time.NewTimer(killWait)
	defer bound.Stop()
	select {
	case <-s.done:
		return nil
	case <-bound.C:
		return api.Errorf(api.CodeUnavailable, "process %d does not end although it was killed", i.PID)
	}
}

// watch tells of i's end. started is nil when another process started it.
func (r *Runtime) watch(i *instance, started *child, done chan struct{}) {
	r.wg.Go(func() {
		ended := i.wait(r.ctx)
		if !ended {
			return // Run ends; the runner does not
		}
		how := "it ended while nobody watched"
		unwatched := !i.seen
		if started != nil {
			how = started.reap()
		} else if i.seen {
			how = "it ended"
		}
		i.Ended = true
		r.cleanUp(i)
		if tail := r.logTail(i.Session); tail != "" {
			how += ": " + tail
		}
		if err := i.write(r.dir(i.Session)); err != nil && !errors.Is(err, os.ErrNotExist) {
			r.log.Warn("note a runner's end", "session", i.Session, "err", err)
		}
		close(done)
		exit := sessions.Exit{Ref: sessions.Ref{Tenant: i.Tenant, Session: i.Session}, Incarnation: i.Incarnation, Reason: how, Unwatched: unwatched}
		select {
		case r.exits <- exit:
		case <-r.ctx.Done():
		}
	})
}

// cleanUp removes what a dead runner may have left outside its session's directory.
func (r *Runtime) cleanUp(i *instance) {
	ctx, cancel := context.WithTimeout(context.Background(), killWait)
	defer cancel()
	if i.Cgroup != "" {
		if err := sandbox.FindGroup(i.Cgroup).Remove(ctx); err != nil {
			r.log.Warn("remove cgroup", "session", i.Session, "err", err)
		}
	}
	if i.Socket != "" {
		_ = os.Remove(i.Socket)
	}
	r.network.giveBack(i.Address) // the network itself has ended with its processes
}

// closeNetwork has the machine as it was before, unless sessions go on.
func (r *Runtime) closeNetwork() {
	if r.network == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.slots {
		if s.running() {
			return
		}
	}
	if err := r.unroute(r.network); err != nil {
		r.log.Warn("take the sessions' routing away", "err", err)
	}
}
