// Package kube is the runtime that runs each session as a Kubernetes pod. It keeps nothing of its own: what runs is what the cluster says, as one
// watch tells it, so a service that starts again, or another replica, knows all of it at once.
//
// A pod is made generic and bound late. Its manifest holds no launch and no session's credential, only a bootstrap credential for the
// bus with which the runner inside may ask one thing: to be bound (runner/bind.go). The sessions service answers once, to the pod whose
// UID it has written down. So making pods (manifest.go, start.go) and binding them ([Runtime.Identify]) are two steps, and a pod can be
// made before there is a session for it.
//
// A start costs the API server one write, the pod, and an end costs one, its deletion; a volume costs another each. Nothing is polled.
package kube

import (
	"context"
	"flag"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/sandbox"
)

// Name is the runtime's name in Session.Runtime.
const Name = "kube"

// Config says which cluster, and how pods look.
type Config struct {
	Kubeconfig     string // file; empty: the pod that the service itself is in
	Namespace      string // of the sessions' pods
	Instance       string // which yard's, where several share a namespace; a label's value
	Image          string // the runner's, which is also that of profiles without one
	PullPolicy     string // of all images: Always, IfNotPresent, Never; empty: the cluster's choice
	ServiceAccount string // of the pods; its token is not mounted
	// Limits bound a session whose profile says nothing, Requests are what a node must have left for it.
	Limits, Requests api.Resources
	// NodeLoss is how long a pod stays on a node that is silent, before its session goes on elsewhere.
	NodeLoss time.Duration
	// CAConfigMap is a ConfigMap of the namespace whose ca.crt runners trust beside their image's authorities; empty: none.
	CAConfigMap string
	// CollectorImage is an OpenTelemetry collector, and CollectorEndpoint (OTLP over HTTP) where it sends agents' metrics; empty: no
	// profile can have one.
	CollectorImage, CollectorEndpoint string
	// NetworkPolicies says that profiles' network policies are made. Where there are none at all, one would take from a pod what it needs.
	NetworkPolicies bool
	// EgressNever are networks that no profile opens, comma-separated.
	EgressNever string
	// KeepDead is how long a pod that ended by itself can be looked at in the cluster.
	KeepDead time.Duration
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		Namespace: "agentyard-sessions", Instance: "agentyard", Image: "localhost/agentyard/runner:dev", ServiceAccount: "default",
		Limits:   api.Resources{CPUs: 2, MemoryBytes: 4 << 30},
		Requests: api.Resources{CPUs: 0.5, MemoryBytes: 512 << 20},
		NodeLoss: 30 * time.Second, KeepDead: 10 * time.Minute,
		NetworkPolicies: true, EgressNever: "169.254.0.0/16,fe80::/10", // clouds' metadata among them
	}
}

// Register adds the flags of c to fs with c's current values as defaults.
func (c *Config) Register(fs *flag.FlagSet) {
	fs.StringVar(&c.Kubeconfig, "kube.config", c.Kubeconfig, "kubeconfig `file`; empty: the cluster that the service is in")
	fs.StringVar(&c.Namespace, "kube.namespace", c.Namespace, "namespace of the sessions' pods")
	fs.StringVar(&c.Instance, "kube.instance", c.Instance, "name of this yard, where several share a namespace")
	fs.StringVar(&c.Image, "kube.image", c.Image, "image with the runner; that of sessions whose profile names none, too")
	fs.StringVar(&c.PullPolicy, "kube.pull-policy", c.PullPolicy, "when nodes pull images: Always, IfNotPresent or Never; empty: as the cluster decides")
	fs.StringVar(&c.ServiceAccount, "kube.service-account", c.ServiceAccount, "service account of the sessions' pods, which get no token of it")
	fs.Float64Var(&c.Limits.CPUs, "kube.cpus", c.Limits.CPUs, "processors that a session may use if its profile says nothing")
	fs.Int64Var(&c.Limits.MemoryBytes, "kube.memory-bytes", c.Limits.MemoryBytes, "memory likewise")
	fs.Float64Var(&c.Requests.CPUs, "kube.request-cpus", c.Requests.CPUs, "processors that a node must have left for a session if its profile says nothing")
	fs.Int64Var(&c.Requests.MemoryBytes, "kube.request-memory-bytes", c.Requests.MemoryBytes, "memory likewise")
	fs.StringVar(&c.CAConfigMap, "kube.ca-configmap", c.CAConfigMap, "ConfigMap in the sessions' namespace whose ca.crt holds authorities that runners trust, too, such as the one of the bus")
	fs.StringVar(&c.CollectorImage, "kube.collector-image", c.CollectorImage, "image of the OpenTelemetry collector beside agents whose profile wants one")
	fs.StringVar(&c.CollectorEndpoint, "kube.collector-endpoint", c.CollectorEndpoint, "where it sends agents' metrics, `URL` of OTLP over HTTP; empty: no profile can have one")
	fs.BoolVar(&c.NetworkPolicies, "kube.network-policies", c.NetworkPolicies, "make network policies of what profiles open")
	fs.StringVar(&c.EgressNever, "kube.egress-never", c.EgressNever, "`networks` that no profile opens, comma-separated")
	fs.DurationVar(&c.NodeLoss, "kube.node-loss", c.NodeLoss, "how long a node may be silent before its sessions go on elsewhere")
	fs.DurationVar(&c.KeepDead, "kube.keep-dead", c.KeepDead, "how long a pod that ended by itself stays in the cluster, to be looked at")
}

// Connect returns how to reach the cluster.
func (c *Config) Connect() (*rest.Config, error) {
	load := func() (*rest.Config, error) { return clientcmd.BuildConfigFromFlags("", c.Kubeconfig) }
	if c.Kubeconfig == "" {
		load = rest.InClusterConfig
	}
	cfg, err := load()
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	return cfg, nil
}

// Deps is what the runtime works with.
type Deps struct {
	Cluster *rest.Config
	BusURL  string // where pods reach the bus
	// Credentials mints the bootstrap credential of a pod (bus.SessionIssuer.PodCredentials).
	Credentials func(pod string, life time.Duration) ([]byte, error)
	Logger      *slog.Logger
}

// Runtime implements sessions.Runtime, sessions.Keeper and sessions.Pooler.
type Runtime struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	shards  []kubernetes.Interface // for what is done with sessions; Run has them, see Ready
	filling kubernetes.Interface   // for pools
	exits   chan sessions.Exit
	ready   chan struct{} // closed when the cluster's pods and volumes are known

	starting atomic.Int32  // sessions that are being started; pools wait for them
	started  atomic.Int64  // when the last of them was, in Unix nanoseconds
	calm     chan struct{} // of capacity 1: none is any more
	refill   chan struct{} // of capacity 1: a pool may need something

	mu      sync.Mutex
	locks   map[string]*lock      // by session: one start or stop at a time
	pods    index[string, *pod]   // by session
	volumes map[string]volume     // by session
	news    []sessions.Exit       // not yet told; bounded by the pods that there were
	wake    chan struct{}         // of capacity 1: news
	refused map[string]string     // by session: why its pod could not be made
	warm    index[poolKey, *warm] // pods that wait for a session
	pools   map[poolKey]*pool
	asked   map[poolKey]answer // see WhyNot
}

// lock serialises what is done with one session; users is how many hold or want it.
type lock struct {
	sync.Mutex
	users int
}

const (
	exitBuffer = 64
	// callTimeout bounds one request to the API server.
	callTimeout = 15 * time.Second
	// tidyEvery is how often pods are looked for that nobody will remove, in memory.
	tidyEvery = 5 * time.Second
)

// New returns a runtime that has done nothing yet.
func New(cfg Config, deps Deps) *Runtime {
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	return &Runtime{
		cfg: cfg, deps: deps, log: deps.Logger, exits: make(chan sessions.Exit, exitBuffer), ready: make(chan struct{}),
		locks: map[string]*lock{}, volumes: map[string]volume{}, wake: make(chan struct{}, 1), refused: map[string]string{},
		calm: make(chan struct{}, 1), refill: make(chan struct{}, 1),
		pools: map[poolKey]*pool{}, asked: map[poolKey]answer{},
	}
}

// Info returns what the sessions service tells and asks of this runtime.
func (r *Runtime) Info() sessions.RuntimeInfo {
	have := []string{sandbox.Mount, sandbox.PID, sandbox.Cgroup} // what a container is; user ids are the same in all
	return sessions.RuntimeInfo{
		Name: Name, Shared: true, Pods: true, Refuses: r.refuses,
		Isolation: func() []string { return have },
		Lacks:     func(want []string) []string { return without(want, have) },
		Holdup:    r.Holdup, PoolHoldup: r.WhyNot,
	}
}

func without(want, have []string) []string {
	var lacks []string
	for _, w := range want {
		found := false
		for _, h := range have {
			found = found || w == h
		}
		if !found {
			lacks = append(lacks, w)
		}
	}
	return lacks
}

// Run follows the cluster until ctx ends. The pods go on. The other methods wait for it.
func (r *Runtime) Run(ctx context.Context) error {
	if _, err := r.cfg.never(); err != nil {
		return err
	}
	watch, err := r.clients()
	if err != nil {
		return fmt.Errorf("kube runtime: %w", err)
	}
	var parts sync.WaitGroup
	defer parts.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parts.Go(func() { r.tell(ctx) })
	if !r.follow(ctx, watch, &parts) {
		return nil // told to stop before the cluster answered
	}
	close(r.ready)
	parts.Go(func() { r.fill(ctx) })
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.tidy(ctx)
		}
	}
}

// shards is how many connections what is done with sessions is spread over. One connection takes a bounded number of requests at once (HTTP/2), and
// a large answer on it holds up the small ones behind it.
const shards = 4

// clients makes the clients, each with connections of its own, so that a burst of one kind does not hold up another: some for sessions, one for
// pools, and the one for watches that it returns. The server decides how much it takes (API priority and fairness); nothing is held back here, and
// what it refuses is told as exhausted.
func (r *Runtime) clients() (watch kubernetes.Interface, err error) {
	client := func(purpose string, timeout time.Duration) (c kubernetes.Interface) {
		if err != nil {
			return nil
		}
		cfg := rest.CopyConfig(r.deps.Cluster)
		cfg.QPS = -1
		cfg.UserAgent = "agentyard-sessions/" + purpose
		cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
		// Transports are shared by equal configurations; a dialler of its own makes this one unequal.
		cfg.Dial = (&net.Dialer{Timeout: callTimeout, KeepAlive: 15 * time.Second}).DialContext
		cfg.Timeout = timeout
		c, err = kubernetes.NewForConfig(cfg)
		return c
	}
	for range shards {
		r.shards = append(r.shards, client("calls", callTimeout))
	}
	r.filling = client("pools", callTimeout)
	return client("watch", 0), err
}

// shard returns the client for what is done with a session or a pod: always the same one.
func (r *Runtime) shard(name string) kubernetes.Interface {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // of a hash it has no error
	return r.shards[h.Sum32()%shards]
}

// Ready waits until the cluster's pods are known.
func (r *Runtime) Ready(ctx context.Context) error {
	select {
	case <-r.ready:
		return nil
	default:
	}
	select {
	case <-r.ready:
		return nil
	case <-ctx.Done():
		return api.Errorf(api.CodeUnavailable, "the cluster has not answered yet")
	}
}

// Exits implements sessions.Runtime.
func (r *Runtime) Exits() <-chan sessions.Exit { return r.exits }

// tell passes on the ends of pods, so that a reader who is slow holds up nothing else.
func (r *Runtime) tell(ctx context.Context) {
	for {
		r.mu.Lock()
		news := r.news
		r.news = nil
		r.mu.Unlock()
		for _, x := range news {
			select {
			case r.exits <- x:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
	}
}

// List implements sessions.Runtime.
func (r *Runtime) List(ctx context.Context) ([]sessions.Instance, error) {
	if err := r.Ready(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []sessions.Instance
	for _, p := range r.pods.named {
		if !p.ended {
			list = append(list, p.Instance)
		}
	}
	return list, nil
}

// Kept implements sessions.Keeper: the sessions that have a pod, running or not, or a volume that is not to be kept.
func (r *Runtime) Kept(ctx context.Context) ([]sessions.Ref, error) {
	if err := r.Ready(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[sessions.Ref]bool{}
	for _, p := range r.pods.named {
		seen[p.Ref] = true
	}
	for _, v := range r.volumes {
		if !v.keep {
			seen[v.Ref] = true
		}
	}
	var refs []sessions.Ref
	for ref := range seen {
		refs = append(refs, ref)
	}
	return refs, nil
}

// lock takes a session's lock.
func (r *Runtime) lock(session string) (unlock func()) {
	r.mu.Lock()
	l := r.locks[session]
	if l == nil {
		l = &lock{}
		r.locks[session] = l
	}
	l.users++
	r.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		r.mu.Lock()
		defer r.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(r.locks, session)
		}
	}
}
