package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
)

// takeTries is how many pods that others were faster with, or that are gone, are tried before one is made.
const takeTries = 3

// take gives an incarnation a pod that waits in its profile's pool, and reports whether there was one. It costs one write, on the condition that the pod is
// still that very one and free, so a pod is taken once, whoever asks.
func (r *Runtime) take(ctx context.Context, l launch.Launch) (bool, error) {
	if unfit(l.Pod) != "" {
		return false, nil
	}
	key := poolKey{l.Tenant, l.Pod.Profile}
	r.mu.Lock()
	some := len(r.warm.of[key]) > 0
	r.mu.Unlock()
	if !some {
		return false, nil
	}
	shape := r.shape(generic{pod: l.Pod, limits: l.Sandbox.Resources})
	for range takeTries {
		w := r.pick(key, shape)
		if w == nil {
			return false, nil
		}
		taken, err := r.claim(ctx, w, l)
		switch {
		case err == nil:
			r.observe(taken, false)
			return true, nil
		case apierrors.IsNotFound(err), apierrors.IsInvalid(err):
			r.putBack(w, true) // the watch will say what became of it
		default:
			r.putBack(w, false)
			return false, r.refuse(l.Session, err, "take a pod of the pool")
		}
	}
	return false, nil
}

// pick returns the pod of that shape that has been ready for the longest time, and holds it; nil when none is.
func (r *Runtime) pick(key poolKey, shape string) *warm {
	r.mu.Lock()
	defer r.mu.Unlock()
	var best *warm
	for _, w := range r.warm.of[key] {
		if w.readied.IsZero() || w.unwanted || w.taking || w.shape != shape {
			continue
		}
		if best == nil || w.readied.Before(best.readied) {
			best = w
		}
	}
	if best != nil {
		best.taking = true
	}
	return best
}

func (r *Runtime) putBack(w *warm, unwanted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.taking, w.unwanted = false, w.unwanted || unwanted
}

// operation is one of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// claimOf is the patch that makes a free pod the pod of an incarnation. With it the API server stops to keep account of who wrote which field of the pod, as one
// empty entry tells it (Kubernetes documentation, server-side apply, "clearing managedFields"): nobody applies pods of ours, and it would be a third of what this write and
// each later one of the pod cost the server.
func claimOf(uid string, l launch.Launch) []operation {
	label := func(name string) string { return "/metadata/labels/" + api.PointerToken(name) }
	ops := []operation{
		{"test", "/metadata/uid", uid},
		{"test", label(labelPool), poolFree},
		{"replace", label(labelPool), poolTaken},
		{"add", label(labelSession), l.Session},
		{"add", label(labelIncarnation), strconv.Itoa(l.Incarnation)},
		{"add", "/metadata/managedFields", []struct{}{{}}}, // which replaces what is there
	}
	if l.Pod.Collector {
		ops = append(ops, operation{"add", "/metadata/annotations/" + api.PointerToken(targetsNote), targetsOf(l.Session)})
	}
	for name, v := range prefixed(l.Pod.SessionLabels) {
		ops = append(ops, operation{"add", "/metadata/annotations/" + api.PointerToken(name), v})
	}
	return ops
}

func (r *Runtime) claim(ctx context.Context, w *warm, l launch.Launch) (*corev1.Pod, error) {
	patch, err := json.Marshal(claimOf(w.uid, l))
	if err != nil {
		return nil, fmt.Errorf("encode a claim: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out := &corev1.Pod{}
	err = r.shard(l.Session).CoreV1().RESTClient().Patch(types.JSONPatchType).Namespace(r.cfg.Namespace).Resource("pods").Name(w.name).
		VersionedParams(&metav1.PatchOptions{FieldManager: managedBy}, scheme.ParameterCodec).
		MaxRetries(0).Body(patch).Do(ctx).Into(out)
	return out, err
}
