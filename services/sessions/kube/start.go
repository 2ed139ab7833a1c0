package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/launch"
)

const (
	// supersedeGrace is what a runner gets that another incarnation replaces.
	supersedeGrace = 5 * time.Second
	// bootstrapLife is how long a pod may take until it asks for its launch, its image's way included.
	bootstrapLife = 30 * time.Minute
	// refusedRetry is what a caller is told to wait when the cluster has no room.
	refusedRetry = 5 * time.Second
)

// Start implements sessions.Runtime: it makes the pod of l. The runner in it asks for its launch when it is up. Errors: conflict for an
// incarnation that ended or was replaced, exhausted when a quota of the namespace is used up, invalid for a pod that the cluster refuses.
func (r *Runtime) Start(ctx context.Context, l launch.Launch) (sessions.Instance, error) {
	out := sessions.Instance{Ref: sessions.Ref{Tenant: l.Tenant, Session: l.Session}, Incarnation: l.Incarnation}
	if err := r.Ready(ctx); err != nil {
		return out, err
	}
	if !api.ValidID(api.KindSession, l.Session) || !api.ValidName(l.Tenant) || l.Incarnation <= 0 {
		return out, api.Invalid("/session", "is not a session that can be started")
	}
	unlock := r.lock(l.Session)
	defer unlock()
	var older []*pod
	runs, over := false, false
	for _, p := range r.of(l.Session) {
		switch ended, stopping := r.seen(p); {
		case p.Incarnation == l.Incarnation && !ended && !stopping:
			runs = true
		case p.Incarnation >= l.Incarnation:
			over = true
		default:
			older = append(older, p)
		}
	}
	switch {
	case runs:
		return out, r.complete(ctx, l)
	case over:
		return out, api.Errorf(api.CodeConflict, "incarnation %d of this session has ended or was replaced", l.Incarnation)
	}
	for _, p := range older {
		if err := r.end(ctx, p, supersedeGrace); err != nil {
			return out, fmt.Errorf("end the runner before: %w", err)
		}
	}
	started := r.busy()
	defer started()
	if taken, err := r.take(ctx, l); taken || err != nil {
		if err == nil {
			err = r.complete(ctx, l)
		}
		return out, err
	}
	return out, r.create(ctx, l)
}

// seen returns what may change while nobody holds the session's lock.
func (r *Runtime) seen(p *pod) (ended, stopping bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return p.ended, p.stopping || !p.deleted.IsZero()
}

// create makes the volume, if the session has one, and the pod.
func (r *Runtime) create(ctx context.Context, l launch.Launch) error {
	if _, err := r.aroundOf(l.Pod); err != nil { // the operator permits something else than when the profile was written
		return err
	}
	if l.Pod.Volume != nil {
		if err := r.makeVolume(ctx, l); err != nil {
			return r.refuse(l.Session, err, "make its volume")
		}
	}
	id := api.NewID(api.KindSession) // of the form that the bus wants
	credentials, err := r.deps.Credentials(id, bootstrapLife)
	if err != nil {
		return fmt.Errorf("mint a pod's credential: %w", err)
	}
	manifest := r.manifest(generic{id: id, credentials: credentials, pod: l.Pod, limits: l.Sandbox.Resources})
	assign(manifest, l)
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// Created, not applied: a pod cannot be changed, and whoever comes second must know.
	made, err := r.createPod(call, r.shard(l.Session), manifest, metav1.CreateOptions{FieldManager: managedBy})
	if apierrors.IsAlreadyExists(err) {
		made, err = r.adopt(call, manifest.Name, l)
	}
	if err != nil {
		return r.refuse(l.Session, err, "make its pod")
	}
	r.observe(made, false)
	return r.complete(ctx, l)
}

// adopt returns the pod of that name that this process does not know yet: an answer was lost, or another replica was faster.
func (r *Runtime) adopt(ctx context.Context, name string, l launch.Launch) (*corev1.Pod, error) {
	p, err := r.shard(l.Session).CoreV1().Pods(r.cfg.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if _, ended := endOf(p); ended || p.DeletionTimestamp != nil {
		return nil, api.Errorf(api.CodeConflict, "incarnation %d of this session has ended", l.Incarnation)
	}
	if i, ok := identify(p.Labels); !ok || i.Ref != (sessions.Ref{Tenant: l.Tenant, Session: l.Session}) {
		return nil, api.Errorf(api.CodeInternal, "there is a pod %s that is not this session's", name)
	}
	return p, nil
}

// createPod asks once: a cluster that has too much to do says so to the caller, who knows what else there is to do.
func (r *Runtime) createPod(ctx context.Context, client kubernetes.Interface, manifest *corev1.Pod, options metav1.CreateOptions) (*corev1.Pod, error) {
	out := &corev1.Pod{}
	err := client.CoreV1().RESTClient().Post().Namespace(r.cfg.Namespace).Resource("pods").
		VersionedParams(&options, scheme.ParameterCodec).MaxRetries(0).Body(manifest).Do(ctx).Into(out)
	return out, err
}

// refuse classifies why the cluster does not do something for a session, and remembers it for who asks what the session waits for.
func (r *Runtime) refuse(session string, err error, doing string) error {
	out := classify(err, doing)
	if code := api.CodeOf(out); code == api.CodeConflict || code == api.CodeInvalid {
		return out // the session goes on, or ends, and says why
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.refused) < maxNews {
		r.refused[session] = out.Error()
	}
	return out
}

// classify says what a refusal of the cluster means: exhausted, with when to try again, when there is no room or the cluster has too much to do, unavailable when it
// does not answer, invalid when it will never take this.
func classify(err error, doing string) error {
	var status apierrors.APIStatus
	exhausted := &api.Error{Code: api.CodeExhausted, Detail: doing + ": the cluster has too much to do", RetryAfter: refusedRetry, Cause: err}
	seconds, told := apierrors.SuggestsClientDelay(err)
	switch {
	case api.CodeOf(err) == api.CodeConflict, errors.Is(err, context.Canceled):
		return err
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota"): // which has no code of its own
		exhausted.Detail, exhausted.Cause = doing+": "+err.Error(), nil
		return exhausted
	case apierrors.IsTooManyRequests(err), apierrors.IsServerTimeout(err), apierrors.IsTimeout(err), apierrors.IsServiceUnavailable(err):
		if told {
			exhausted.RetryAfter = time.Duration(seconds) * time.Second
		}
		return exhausted
	case errors.Is(err, context.DeadlineExceeded):
		return exhausted
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err), apierrors.IsBadRequest(err):
		return api.Errorf(api.CodeInvalid, "the cluster does not %s: %v", doing, err)
	case !errors.As(err, &status):
		return &api.Error{Code: api.CodeUnavailable, Detail: doing + ": the cluster cannot be reached", Cause: err}
	}
	return fmt.Errorf("%s: %w", doing, err)
}
