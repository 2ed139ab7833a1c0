package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"agentyard.dev/libs/api"
)

const (
	// fillers is how many pods of pools are made or removed at once, over all pools: the cluster's answers set the pace.
	fillers = 4
	// yieldMost is how long a pool waits for sessions that are being started.
	yieldMost = 250 * time.Millisecond
	// A pool that is at least half full waits for calmFor without a start, but no longer than shortMost: a burst that it can serve is
	// not slowed down by the pods for the next one.
	calmFor   = time.Second
	shortMost = 10 * time.Second
	// conflictRetry is how long the watch may take to show what was changed meanwhile.
	conflictRetry = time.Second
)

// wakeFiller has the pools looked at soon.
func (r *Runtime) wakeFiller() {
	select {
	case r.refill <- struct{}{}:
	default:
	}
}

// fill brings the pools to what they should be, until ctx ends. Sessions go first: while any is being started, a pool waits for a while.
func (r *Runtime) fill(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	slots := make(chan struct{}, fillers)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		r.yield(ctx)
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		c, some := r.choreLocked(time.Now())
		r.mu.Unlock()
		if some {
			work.Go(func() {
				r.do(ctx, c)
				<-slots
				r.wakeFiller()
			})
			continue
		}
		<-slots
		select {
		case <-r.refill:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// yield returns when no session is being started, or after yieldMost.
func (r *Runtime) yield(ctx context.Context) {
	timer := time.NewTimer(yieldMost)
	defer timer.Stop()
	for r.starting.Load() > 0 {
		select {
		case <-r.calm:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// busy counts a session that is being started until done is called.
func (r *Runtime) busy() (done func()) {
	r.starting.Add(1)
	return func() {
		r.started.Store(time.Now().UnixNano())
		if r.starting.Add(-1) > 0 {
			return
		}
		select {
		case r.calm <- struct{}{}:
		default:
		}
	}
}

// do does one chore and notes how it went.
func (r *Runtime) do(ctx context.Context, c chore) {
	if c.remove != nil {
		if err := r.removeWarm(ctx, c.remove); err != nil && ctx.Err() == nil {
			r.log.Warn("remove a pod of a pool", "op", "pool", "tenant", c.key.tenant, "profile", c.key.profile, "err", err)
		}
		return
	}
	err := r.makeWarm(ctx, c.make, c.shape, false)
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pools[c.key]
	delete(p.making, c.make.id)
	if err == nil || ctx.Err() != nil {
		return
	}
	if p.failures == 0 {
		r.log.Warn("fill a pool", "op", "pool", "tenant", c.key.tenant, "profile", c.key.profile, "code", api.CodeOf(err), "err", err)
	}
	if time.Now().Before(p.next) {
		return // of several that failed together one counts
	}
	var refused *api.Error
	atLeast := time.Duration(0)
	if errors.As(err, &refused) {
		atLeast = refused.RetryAfter
	}
	r.failedLocked(c.key, err.Error(), atLeast)
}

// makeWarm makes a pod of a pool, or only asks whether it could be made.
func (r *Runtime) makeWarm(ctx context.Context, spec generic, shape string, dry bool) error {
	var err error
	if spec.credentials, err = r.deps.Credentials(spec.id, poolLife); err != nil {
		return fmt.Errorf("mint a pod's credential: %w", err)
	}
	manifest := r.manifest(spec)
	manifest.Labels[labelPool], manifest.Labels[labelTenant] = poolFree, spec.tenant
	if manifest.Annotations == nil {
		manifest.Annotations = map[string]string{}
	}
	manifest.Annotations[shapeNote] = shape // of which a claim needs that there is one
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	options := metav1.CreateOptions{FieldManager: managedBy}
	if dry {
		options.DryRun = []string{metav1.DryRunAll}
	}
	made, err := r.createPod(ctx, r.filling, manifest, options)
	if err != nil {
		return classify(err, "make a pod of the pool")
	}
	if dry {
		return nil
	}
	if err := r.attend(ctx, r.filling, made, spec.pod); err != nil {
		_ = r.filling.CoreV1().Pods(r.cfg.Namespace).Delete(ctx, made.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &made.UID}})
		return classify(err, "make what is around a pod of the pool")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.warm.named[made.Name] == nil && r.pods.named[made.Name] == nil { // the watch may have been faster, and knows more
		r.observeLocked(made, false)
	}
	return nil
}

// removeWarm removes a pod of a pool as it was last seen: not one that a session has taken meanwhile.
func (r *Runtime) removeWarm(ctx context.Context, w *warm) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r.mu.Lock()
	uid, version := types.UID(w.uid), w.version
	soon := int64(1)
	if w.asked { // its node does not answer
		soon = 0
	}
	w.asked = true
	r.mu.Unlock()
	err := r.filling.CoreV1().Pods(r.cfg.Namespace).Delete(ctx, w.name, metav1.DeleteOptions{
		GracePeriodSeconds: &soon, Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version},
	})
	if apierrors.IsConflict(err) { // it has changed: it is looked at again when the watch has said how
		r.mu.Lock()
		w.deleted, w.asked = time.Now().Add(conflictRetry-lostAfter), false
		r.mu.Unlock()
		return nil
	}
	if apierrors.IsNotFound(err) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.warm.named[w.name] == w {
			r.leaveLocked(w)
		}
		return nil
	}
	return err
}
