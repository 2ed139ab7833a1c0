package sessions

import (
	"context"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
)

// Runtime runs sessions' runners somewhere: as local processes, as pods. Every method may be called at any time, again and
// at the same time for different sessions. runtimetest.Run is its behaviour.
type Runtime interface {
	// Start makes sure that the session's runner of l.Incarnation runs, after having ended an older one, and returns when it has
	// been told its launch. The runtime fills in where the runner works (Dir, Listen, and of the Sandbox what
	// is its own). A runner survives the process that started it. An incarnation that has ended is not started again: conflict.
	Start(ctx context.Context, l launch.Launch) (Instance, error)
	// Stop ends the session's runner and everything that it started: gracefully for grace, then at once. With keep, the session's workspace and home
	// stay for a later Start; without, nothing remains. Stopping what is gone is success.
	Stop(ctx context.Context, s Ref, grace time.Duration, keep bool) error
	// List returns the runners that run, those of earlier processes included.
	List(ctx context.Context) ([]Instance, error)
	// Exits tells of each runner that ended, adopted ones too, once, whoever ended it. A reader that
	// is slow holds up nothing but the news.
	Exits() <-chan Exit
}

// Keeper is a Runtime that can say what it keeps of sessions, whether they run or not: directories, volumes, secrets. Stop
// without keep removes it. A session is named once, however much is kept of it.
type Keeper interface {
	Kept(ctx context.Context) ([]Ref, error)
}

// LateBinder is a Runtime whose runners have no launch when they begin, but ask for it ([api.RunnerBind]). Any replica may be asked. Start makes
// the place for a runner; the launch that it is given matters only for what it says about that place.
type LateBinder interface {
	// Identify returns whose runner asks: which has proven to be id, and says what req says. For one that is no session's yet it may
	// wait, for seconds, and is unavailable if that does not change.
	Identify(ctx context.Context, id string, req api.RunnerBindRequest) (Placed, error)
	// Place fills in where such a runner works.
	Place(l *launch.Launch)
}

// Placed is an instance and the node that it is on.
type Placed struct {
	Instance
	Node string
}

// Ref names a session.
type Ref struct {
	Tenant  string
	Session string
}

// Instance is one runner that runs.
type Instance struct {
	Ref
	Incarnation int
}

// Exit is the end of one runner.
type Exit struct {
	Ref
	Incarnation int
	Reason      string // how it ended and what it last said, for a person
	Unwatched   bool   // it ended while no runtime watched, as a yard that is stopped lets it: nobody's fault
}

// RuntimeInfo is what the service says about its runtime and asks of it before it starts anything.
type RuntimeInfo struct {
	Name string // "process", "kube": Session.Runtime
	Node string // Session.Node; empty: the runtime has many
	// Shared says that every replica of the service has this same runtime, so that one of them reconciles for all. A runtime
	// that is not shared is its own process's, and so is reconciling.
	Shared bool
	// Pods says that it takes a profile's image and pod. Refuses, if set, says why it makes no such pods, "" when it does.
	Pods    bool
	Refuses func(pod api.Pod) string
	// Holdup, if set, says what keeps a session's runner from running, for a person; "" when nothing is known to.
	Holdup func(ctx context.Context, s Ref) string
	// PoolHoldup, if set, says what keeps a pool from being filled, for a person; "" when nothing does. It is asked when the pool itself has no reason to show.
	PoolHoldup func(ctx context.Context, p PoolSpec) string
	// Isolation is what separates an agent from the machine: Session.Isolation. It may take a moment the first time.
	Isolation func() []string
	// Lacks returns what of a profile's Isolation the runtime cannot give.
	Lacks func(isolation []string) []string
}
