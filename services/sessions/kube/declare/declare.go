// Package declare has sessions and profiles be what objects of a cluster say: a Session or SessionProfile of agentyard.dev/v1alpha1
// that somebody applies is made in the yard, kept as it is declared, and ended when the object is deleted. The object's status is the yard's
// answer.
//
// In whose name: the yard's operator gives namespaces to users of tenants (-kube.declarations), in the service's own configuration,
// where nobody who may only write in those namespaces reaches it. Who may create objects in a namespace is the cluster's to say (RBAC);
// what they come to is what that user may do by the API, with the same checks, profiles and quotas. An object names neither
// tenant nor user, and a session's id follows from the user and the object's UID, so no object reaches another's session.
//
// The controller is level-triggered: it compares each object with the yard whenever either changes, and every resync. Of several replicas
// the one that reconciles sessions follows objects.
package declare

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/parts"
	"agentyard.dev/services/sessions"
)

// Config says what is followed.
type Config struct {
	Namespaces string // "namespace=tenant/user,…"; empty: nothing
	URL        string // of the yard; status.url begins with it
}

// Register adds the flags of c to fs with c's current values as defaults.
func (c *Config) Register(fs *flag.FlagSet) {
	fs.StringVar(&c.Namespaces, "kube.declarations", c.Namespaces, "namespaces whose Session and SessionProfile objects are followed, each with the tenant and the user in whose name: `NAMESPACE=TENANT/USER,…`; empty: none")
	fs.StringVar(&c.URL, "kube.declarations-url", c.URL, "address of the yard in the status of these objects")
}

// account is in whose name the objects of a namespace are.
type account struct{ tenant, user string }

// accounts parses Config.Namespaces.
func (c Config) accounts() (map[string]account, error) {
	out := map[string]account{}
	for _, entry := range strings.Split(c.Namespaces, ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		namespace, who, _ := strings.Cut(entry, "=")
		tenant, user, _ := strings.Cut(who, "/")
		if len(validation.IsDNS1123Label(namespace)) > 0 || !api.ValidName(tenant) || !api.ValidID(api.KindUser, user) {
			return nil, fmt.Errorf("-kube.declarations: %q is not NAMESPACE=TENANT/USER with a user's id", entry)
		}
		if _, twice := out[namespace]; twice {
			return nil, fmt.Errorf("-kube.declarations: the namespace %s is given twice", namespace)
		}
		out[namespace] = account{tenant: tenant, user: user}
	}
	return out, nil
}

// yard is what is asked of the sessions service.
type yard interface {
	DeclareSession(ctx context.Context, d sessions.Declaration, made bool, req api.CreateSessionRequest) (api.Session, error)
	WithdrawSession(ctx context.Context, d sessions.Declaration) (now api.Session, ended bool, err error)
	DeclareProfile(ctx context.Context, d sessions.Declaration, made bool, p api.Profile) (api.Profile, error)
	WithdrawProfile(ctx context.Context, d sessions.Declaration, made bool, p api.Profile) error
}

// The resources that are followed.
var (
	group             = schema.GroupVersion{Group: "agentyard.dev", Version: "v1alpha1"}
	sessionResource   = group.WithResource("sessions")
	profileResource   = group.WithResource("sessionprofiles")
	followedResources = []schema.GroupVersionResource{sessionResource, profileResource}
)

const (
	// manager is who writes finalizers and status, for the API server (server-side apply).
	manager = "agentyard-sessions"
	// finalizer holds an object until nothing of it is left in the yard.
	finalizer = "agentyard.dev/session"
	// resync is how often every object is compared anew; what the yard refused may have become possible by then.
	resync = time.Minute
	// workers is how many objects are compared at once.
	workers = 4
	// callTimeout bounds one request to the API server, workTimeout the comparison of one object.
	callTimeout = 15 * time.Second
	workTimeout = time.Minute
)

// item names one object.
type item struct {
	resource        schema.GroupVersionResource
	namespace, name string
}

// Controller implements sessions.Declarations.
type Controller struct {
	cfg      Config
	accounts map[string]account
	cluster  *rest.Config
	log      *slog.Logger

	mu sync.Mutex
	// queue is client-go's, not bus.WorkQueue: its keys are objects, and it remembers how often each failed. It is nil while another replica follows.
	queue   workqueue.TypedRateLimitingInterface[item]
	objects map[string]item // by the id of the session that each declares
}

// New returns a controller that has done nothing yet, or nil if cfg names no namespaces.
func New(cfg Config, cluster *rest.Config, logger *slog.Logger) (*Controller, error) {
	accounts, err := cfg.accounts()
	if err != nil || len(accounts) == 0 {
		return nil, err
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Controller{cfg: cfg, accounts: accounts, cluster: cluster, log: logger}, nil
}

// Changed implements sessions.Declarations.
func (c *Controller) Changed(_, session string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if it, ok := c.objects[session]; ok && c.queue != nil {
		c.queue.Add(it)
	}
}

// Follow implements sessions.Declarations.
func (c *Controller) Follow(ctx context.Context, s *sessions.Service) {
	if err := c.follow(ctx, s); err != nil && ctx.Err() == nil {
		c.log.Error("follow declarations", "err", err)
	}
}

// follow watches the objects of all namespaces and works through them until ctx ends.
func (c *Controller) follow(ctx context.Context, s yard) error {
	client, err := c.client()
	if err != nil {
		return fmt.Errorf("reach the cluster: %w", err)
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[item]())
	group, ctx := parts.New(ctx)
	defer group.Stop()
	defer queue.ShutDown()
	c.start(queue)
	defer c.start(nil)

	stores := map[schema.GroupVersionResource]map[string]cache.Store{}
	for _, resource := range followedResources {
		stores[resource] = map[string]cache.Store{}
		for namespace := range c.accounts {
			informer, err := c.watch(ctx, client, resource, namespace, queue)
			if err != nil {
				return err
			}
			stores[resource][namespace] = informer.GetStore()
			group.Go("watch", func(ctx context.Context) error { informer.RunWithContext(ctx); return nil })
		}
	}
	r := reconciler{c: c, yard: s, client: client, queue: queue, stores: stores}
	for range workers {
		group.Go("compare", func(ctx context.Context) error {
			for r.next(ctx) {
			}
			return nil
		})
	}
	c.log.Info("follows declarations", "namespaces", len(c.accounts))
	<-ctx.Done()
	return nil
}

// start notes where changes go; nil: nowhere.
func (c *Controller) start(queue workqueue.TypedRateLimitingInterface[item]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue, c.objects = queue, map[string]item{}
}

// declares notes that a session is an object's.
func (c *Controller) declares(session string, it item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objects[session] = it
}

// forget is the opposite.
func (c *Controller) forget(session string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.objects, session)
}

// client returns a client with a connection of its own.
func (c *Controller) client() (dynamic.Interface, error) {
	cfg := rest.CopyConfig(c.cluster)
	cfg.QPS = -1
	cfg.UserAgent = "agentyard-sessions/declarations"
	cfg.Dial = (&net.Dialer{Timeout: callTimeout, KeepAlive: 15 * time.Second}).DialContext
	return dynamic.NewForConfig(cfg)
}

// watch returns an informer of one namespace's objects of one kind that queues what changes.
func (c *Controller) watch(ctx context.Context, client dynamic.Interface, resource schema.GroupVersionResource, namespace string, queue workqueue.TypedRateLimitingInterface[item]) (cache.SharedIndexInformer, error) {
	api := client.Resource(resource).Namespace(namespace)
	informer := cache.NewSharedIndexInformer(listWatch(api), &unstructured.Unstructured{}, resync, cache.Indexers{})
	failing := false // the informer calls the handler from one goroutine
	if err := informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		if !failing && ctx.Err() == nil {
			c.log.Warn("watch declarations", "namespace", namespace, "op", resource.Resource, "err", err)
		}
		failing = true
	}); err != nil {
		return nil, err
	}
	if err := informer.SetTransform(withoutManagers); err != nil {
		return nil, err
	}
	add := func(obj any) {
		if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = last.Obj
		}
		if o, ok := obj.(*unstructured.Unstructured); ok {
			queue.Add(item{resource: resource, namespace: o.GetNamespace(), name: o.GetName()})
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: add, UpdateFunc: func(_, obj any) { add(obj) }, DeleteFunc: add,
	})
	return informer, err
}

// withoutManagers drops what nobody reads here, often half of an object.
func withoutManagers(obj any) (any, error) {
	if o, ok := obj.(*unstructured.Unstructured); ok {
		o.SetManagedFields(nil)
	}
	return obj, nil
}
