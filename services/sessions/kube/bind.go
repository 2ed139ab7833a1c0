package kube

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/launch"
)

// Identify implements sessions.LateBinder: it returns whose runner the pod is that says its name and UID, and has proven
// to be the pod of that id. It is the cluster that says so, not the pod. Errors: unavailable when the cluster does not say yet,
// denied when the three do not belong together, conflict for a pod that has ended or is being deleted.
func (r *Runtime) Identify(ctx context.Context, id string, req api.RunnerBindRequest) (sessions.Placed, error) {
	if err := r.Ready(ctx); err != nil {
		return sessions.Placed{}, err
	}
	r.mu.Lock()
	_, known := r.byName[req.Pod]
	r.mu.Unlock()
	if !known {
		if err := r.look(ctx, req.Pod); err != nil {
			return sessions.Placed{}, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.byName[req.Pod]
	switch {
	case p == nil:
		return sessions.Placed{}, api.Errorf(api.CodeUnavailable, "this pod is not known yet")
	case p.id != id || p.uid != req.UID:
		return sessions.Placed{}, api.Errorf(api.CodeDenied, "this credential is not that pod's")
	case p.ended || p.stopping || !p.deleted.IsZero():
		return sessions.Placed{}, api.Errorf(api.CodeConflict, "this pod is wanted no more")
	}
	return sessions.Placed{Instance: p.Instance, Node: p.node}, nil
}

// look asks the cluster for a pod that the watch has not shown yet.
func (r *Runtime) look(ctx context.Context, name string) error {
	if len(name) > 63 || strings.ContainsAny(name, "/%?# ") || name == "" {
		return api.Errorf(api.CodeDenied, "this is no pod's name")
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	p, err := r.client.CoreV1().Pods(r.cfg.Namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return api.Errorf(api.CodeDenied, "there is no such pod")
	case err != nil:
		return api.Errorf(api.CodeUnavailable, "look for the pod: %w", err)
	case p.Labels[labelManagedBy] != managedBy || p.Labels[labelInstance] != r.cfg.Instance:
		return api.Errorf(api.CodeDenied, "this pod is not of this yard")
	}
	stripped, _ := strip(p) // of a pod it has no error
	r.observe(stripped.(*corev1.Pod), false)
	return nil
}

// Place implements sessions.LateBinder: it says where in a pod the runner works.
func (r *Runtime) Place(l *launch.Launch) {
	l.Dir, l.Listen = sessionDir, listen
	l.Sandbox = launch.Sandbox{Dir: sessionDir} // the container is the sandbox
	l.Pod = launch.Pod{}
}

// listen is where runners listen. Who reaches it needs the endpoint's key.
const listen = "tcp:0.0.0.0:9000"

// Holdup says what keeps a session's pod from running, for a person; "" when nothing is known to.
func (r *Runtime) Holdup(ctx context.Context, ref sessions.Ref) string {
	r.mu.Lock()
	why := r.refused[ref.Session]
	var newest *pod
	for _, p := range r.pods[ref.Session] {
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
	events, err := r.client.CoreV1().Events(r.cfg.Namespace).List(ctx, metav1.ListOptions{
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
