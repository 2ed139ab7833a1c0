package declare

import (
	"context"
	"errors"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
)

// reconciler compares objects with the yard while this replica follows them.
type reconciler struct {
	c      *Controller
	yard   yard
	client dynamic.Interface
	queue  workqueue.TypedRateLimitingInterface[item]
	stores map[schema.GroupVersionResource]map[string]cache.Store // what is watched, by namespace
}

// listWatch lists and watches with what the informer asks for.
func listWatch(api dynamic.ResourceInterface) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return api.Watch(ctx, o)
		},
	}
}

// next compares the next object of the queue; false when there will be none.
func (r *reconciler) next(ctx context.Context) bool {
	queue := r.queue
	it, done := queue.Get()
	if done {
		return false
	}
	defer queue.Done(it)
	work, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	err := r.reconcile(work, it)
	var e *api.Error
	switch {
	case err == nil:
		queue.Forget(it)
	case ctx.Err() != nil:
	case errors.As(err, &e) && e.RetryAfter > 0: // the yard says when
		queue.Forget(it)
		queue.AddAfter(it, e.RetryAfter)
	case wrong(err): // it is in the status; an object that changes, or the resync, tries again
		queue.Forget(it)
	default:
		r.c.log.Warn("compare a declaration", "op", it.resource.Resource, "namespace", it.namespace, "name", it.name, "code", api.CodeOf(err), "err", err)
		queue.AddRateLimited(it)
	}
	return true
}

// wrong reports whether an error is the object's, or its user's: trying at once would not help.
func wrong(err error) bool {
	switch api.CodeOf(err) {
	case api.CodeInvalid, api.CodeDenied, api.CodeConflict, api.CodeNotFound, api.CodeExhausted:
		return true
	}
	return false
}

// reconcile takes one step, or all, towards what an object says.
func (r *reconciler) reconcile(ctx context.Context, it item) error {
	obj, there, err := r.stores[it.resource][it.namespace].GetByKey(it.namespace + "/" + it.name)
	if err != nil || !there {
		return err
	}
	o := obj.(*unstructured.Unstructured).DeepCopy()
	who := r.c.accounts[it.namespace]
	d := sessions.Declaration{
		Tenant: who.tenant, User: who.user, Key: "kubernetes/" + it.namespace + "/" + it.name + "/" + string(o.GetUID()),
	}
	held := slices.Contains(o.GetFinalizers(), finalizer)
	step := r.session
	if it.resource == profileResource {
		step = r.profile
	}
	switch {
	case o.GetDeletionTimestamp() != nil && !held:
		return nil
	case o.GetDeletionTimestamp() == nil && !held: // before anything is made that somebody would have to remove
		return gone(r.apply(ctx, it, o, []string{finalizer}, nil)) // which is news of the object: the next step follows
	}
	return step(ctx, it, o, d)
}

// gone takes for success that an object is no more.
func gone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// session makes the session that an object declares, or ends it, and shows it in the object's status.
func (r *reconciler) session(ctx context.Context, it item, o *unstructured.Unstructured, d sessions.Declaration) error {
	s := statusOf(o)
	made, id := s.ID != "", d.SessionID()
	r.c.declares(id, it)
	if o.GetDeletionTimestamp() != nil {
		now, ended, err := r.yard.WithdrawSession(ctx, d)
		switch {
		case err != nil:
			return err
		case ended:
			r.c.forget(id)
			return gone(r.apply(ctx, it, o, nil, nil))
		}
		s.session(r.c.cfg.URL, now)
		return gone(r.write(ctx, it, o, s))
	}
	s.ObservedGeneration = o.GetGeneration()
	if made && s.ID != id {
		s.refused(api.Errorf(api.CodeConflict, "its namespace was another user's when the session %s was made; delete the object and apply it again", s.ID))
		return gone(r.write(ctx, it, o, s))
	}
	req, err := decode[api.CreateSessionRequest](o.Object["spec"])
	if err != nil {
		s.refused(api.Errorf(api.CodeInvalid, "the spec cannot be read: %v", err))
		return gone(r.write(ctx, it, o, s))
	}
	now, err := r.yard.DeclareSession(ctx, d, made, req)
	if now.ID != "" {
		s.session(r.c.cfg.URL, now)
	}
	switch {
	case err == nil:
		s.set(accepted, true, asIs, "")
	case made && api.CodeOf(err) == api.CodeNotFound: // it ended, and its history was kept for long enough
		if s.Phase.Final() {
			return nil
		}
		s.Phase, s.Node = api.StateTerminated, ""
		s.set(ready, false, reasonOf(string(s.Phase)), "its history has ended")
		err = nil
	case api.CodeOf(err) == api.CodeUnavailable: // nothing is known; what was stays true until it is
		return err
	default:
		s.refused(err)
	}
	return errors.Join(err, gone(r.write(ctx, it, o, s)))
}

// again queues the sessions of a namespace.
func (r *reconciler) again(namespace string) {
	for _, name := range r.stores[sessionResource][namespace].ListKeys() {
		_, name, _ = strings.Cut(name, "/")
		r.queue.Add(item{resource: sessionResource, namespace: namespace, name: name})
	}
}

// profile is session for profiles.
func (r *reconciler) profile(ctx context.Context, it item, o *unstructured.Unstructured, d sessions.Declaration) error {
	s := statusOf(o)
	made := s.Revision != 0
	p, err := decode[api.Profile](o.Object["spec"])
	p.Name, p.Rev = it.name, 0
	if o.GetDeletionTimestamp() != nil {
		if err := r.yard.WithdrawProfile(ctx, d, made, p); err != nil {
			return err
		}
		return gone(r.apply(ctx, it, o, nil, nil))
	}
	s.ObservedGeneration = o.GetGeneration()
	if err != nil {
		s.refused(api.Errorf(api.CodeInvalid, "the spec cannot be read: %v", err))
		return gone(r.write(ctx, it, o, s))
	}
	now, err := r.yard.DeclareProfile(ctx, d, made, p)
	switch {
	case err == nil:
		if s.Revision != now.Rev {
			r.again(it.namespace) // sessions that were refused for want of it
		}
		s.Revision, s.Reason = now.Rev, ""
		s.set(accepted, true, asIs, "")
	case api.CodeOf(err) == api.CodeUnavailable:
		return err
	default:
		s.refused(err)
	}
	return errors.Join(err, gone(r.write(ctx, it, o, s)))
}
