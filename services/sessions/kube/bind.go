package kube

import (
	"context"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/launch"
)

// holdFor is how long a pod that waits in a pool is held on the line. It asks again at once; an answer that is lost with the
// replica that would have given it costs it no more than that.
const holdFor = 5 * time.Second

// Identify implements sessions.LateBinder: it returns whose runner the pod is that says its name and UID, and has proven
// to be the pod of that id. It is the cluster that says so, not the pod. Errors: unavailable when the cluster does not say yet,
// denied when the three do not belong together, conflict for a pod that has ended or is being deleted. Of a pod that waits in a pool it
// waits, for a while, until a session has taken it.
func (r *Runtime) Identify(ctx context.Context, id string, req api.RunnerBindRequest) (sessions.Placed, error) {
	if err := r.Ready(ctx); err != nil {
		return sessions.Placed{}, err
	}
	hold := time.NewTimer(holdFor)
	defer hold.Stop()
	for looked := false; ; {
		at, waits, err := r.placed(id, req)
		switch {
		case err != nil && waits == nil && !looked && api.CodeOf(err) == api.CodeUnavailable:
			if err := r.look(ctx, req.Pod); err != nil {
				return at, err
			}
			looked = true
			continue
		case waits == nil:
			return at, err
		}
		select {
		case <-waits:
		case <-hold.C:
			return at, err
		case <-ctx.Done():
			return at, err
		}
	}
}

// placed is Identify without waiting: for a pod that waits in a pool it returns what is closed when that ends.
func (r *Runtime) placed(id string, req api.RunnerBindRequest) (at sessions.Placed, waits <-chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, w := r.pods.named[req.Pod], r.warm.named[req.Pod]
	switch {
	case p == nil && w == nil:
		return at, nil, api.Errorf(api.CodeUnavailable, "this pod is not known yet")
	case p == nil && (w.id != id || w.uid != req.UID), p != nil && (p.id != id || p.uid != req.UID):
		return at, nil, api.Errorf(api.CodeDenied, "this credential is not that pod's")
	case p == nil:
		return at, w.left, api.Errorf(api.CodeUnavailable, "this pod waits for a session")
	case p.ended || p.stopping || !p.deleted.IsZero():
		return at, nil, api.Errorf(api.CodeConflict, "this pod is wanted no more")
	}
	return sessions.Placed{Instance: p.Instance, Node: p.node}, nil, nil
}

// look asks the cluster for a pod that the watch has not shown yet.
func (r *Runtime) look(ctx context.Context, name string) error {
	if len(name) > 63 || strings.ContainsAny(name, "/%?# ") || name == "" {
		return api.Errorf(api.CodeDenied, "this is no pod's name")
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	p, err := r.shard(name).CoreV1().Pods(r.cfg.Namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return api.Errorf(api.CodeDenied, "there is no such pod")
	case err != nil:
		return api.Errorf(api.CodeUnavailable, "look for the pod: %w", err)
	case p.Labels[labelManagedBy] != managedBy || p.Labels[labelInstance] != r.cfg.Instance:
		return api.Errorf(api.CodeDenied, "this pod is not of this yard")
	}
	r.observe(p, false)
	return nil
}

// Place implements sessions.LateBinder: it says where in a pod the runner works.
func (r *Runtime) Place(l *launch.Launch) {
	l.Dir, l.Listen = sessionDir, "tcp:0.0.0.0:"+strconv.Itoa(launch.PodPort)
	l.Sandbox = launch.Sandbox{Dir: sessionDir} // the container is the sandbox
	l.Pod = launch.Pod{}
}

// Holdup says what keeps a session's pod from running, for a person; "" when nothing is known to.
func (r *Runtime) Holdup(ctx context.Context, ref sessions.Ref) string {
	r.mu.Lock()
	why := r.refused[ref.Session]
	var newest *pod
	for _, p := range r.pods.of[ref.Session] {
		if newest == nil || p.Incarnation > newest.Incarnation {
			newest = p
		}
	}
	var uid string
	if newest != nil {
		why, uid = newest.holdup, newest.uid
	}
	r.mu.Unlock()
	if why != "" || uid == "" {
		return why
	}
	return r.lastEvent(ctx, uid)
}

// lastEvent returns the newest warning about a pod: of volumes that cannot be mounted, networks and runtime classes the pod's
// own status says nothing.
func (r *Runtime) lastEvent(ctx context.Context, uid string) string {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	events, err := r.shard(uid).CoreV1().Events(r.cfg.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.uid=" + uid + ",type=" + corev1.EventTypeWarning, Limit: 100,
	})
	if err != nil {
		return ""
	}
	var last *corev1.Event
	for i := range events.Items {
		if last == nil || last.LastTimestamp.Before(&events.Items[i].LastTimestamp) {
			last = &events.Items[i]
		}
	}
	if last == nil {
		return ""
	}
	return join(last.Reason, last.Message)
}
