package kube

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
)

// Stop implements sessions.Runtime. The grace counts in whole seconds, at least one.
func (r *Runtime) Stop(ctx context.Context, ref sessions.Ref, grace time.Duration, keep bool) error {
	if err := r.Ready(ctx); err != nil {
		return err
	}
	if !api.ValidID(api.KindSession, ref.Session) {
		return nil // nothing of that name was ever started
	}
	unlock := r.lock(ref.Session)
	defer unlock()
	for _, p := range r.of(ref.Session) {
		if ended, _ := r.seen(p); ended && keep {
			continue // a start of the same incarnation shall find that it ended
		}
		if err := r.end(ctx, p, grace); err != nil {
			return err
		}
	}
	if keep {
		return nil
	}
	if err := r.removeVolume(ctx, ref.Session); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.refused, ref.Session)
	return nil
}

// end deletes a pod, gracefully for grace, and waits until it is gone.
func (r *Runtime) end(ctx context.Context, p *pod, grace time.Duration) error {
	if err := r.remove(ctx, p, grace); err != nil {
		return err
	}
	timer := time.NewTimer(grace + lostAfter)
	defer timer.Stop()
	select {
	case <-p.gone:
		return nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return api.Errorf(api.CodeUnavailable, "stop runner: %w", ctx.Err()) // the service itself stops; the next goes on
		}
	case <-timer.C:
	}
	// Its node does not answer. Its runner, should it still run, has lost its place: the log takes nothing from it any more.
	if err := r.force(context.WithoutCancel(ctx), p); err != nil {
		return err
	}
	select {
	case <-p.gone:
		return nil
	case <-time.After(callTimeout):
		return api.Errorf(api.CodeUnavailable, "the cluster does not say that pod %s is gone", p.name)
	}
}

// remove asks for a pod's deletion.
func (r *Runtime) remove(ctx context.Context, p *pod, grace time.Duration) error {
	r.mu.Lock()
	p.stopping = true
	r.mu.Unlock()
	return r.delete(ctx, p, max(1, int64((grace+time.Second-1)/time.Second)))
}

// force takes a pod out of the cluster's books without waiting for its node.
func (r *Runtime) force(ctx context.Context, p *pod) error { return r.delete(ctx, p, 0) }

// delete deletes this very pod; that it is gone is success.
func (r *Runtime) delete(ctx context.Context, p *pod, seconds int64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	uid := types.UID(p.uid)
	err := r.shard(p.Session).CoreV1().Pods(r.cfg.Namespace).Delete(ctx, p.name, metav1.DeleteOptions{
		GracePeriodSeconds: &seconds, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // conflict: there is another of that name
		return api.Errorf(api.CodeUnavailable, "delete pod %s: %w", p.name, err)
	}
	return nil
}
