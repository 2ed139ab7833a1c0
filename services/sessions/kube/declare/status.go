package declare

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"agentyard.dev/libs/api"
)

// status is what objects of both kinds say of themselves.
type status struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Reason             string             `json:"reason,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`

	Phase     api.State `json:"phase,omitempty"`
	ID        string    `json:"id,omitempty"`
	URL       string    `json:"url,omitempty"`
	Node      string    `json:"node,omitempty"`
	StartedAt string    `json:"startedAt,omitempty"`
	EndedAt   string    `json:"endedAt,omitempty"`

	Revision uint64 `json:"revision,omitempty"` // of a profile
}

// Types of conditions, and reasons of their own; else a reason is the yard's error code or a session's state.
const (
	accepted = "Accepted" // the yard made of it what it says
	ready    = "Ready"    // the session runs
	asIs     = "AsDeclared"
	maxText  = 2000 // of messages
)

// statusOf reads an object's status; what cannot be read is empty, and is written anew.
func statusOf(o *unstructured.Unstructured) status {
	var s status
	if text, err := json.Marshal(o.Object["status"]); err == nil {
		_ = json.Unmarshal(text, &s)
	}
	return s
}

// set sets a condition.
func (s *status) set(kind string, ok bool, reason, message string) {
	now := metav1.ConditionFalse
	if ok {
		now = metav1.ConditionTrue
	}
	if len(message) > maxText {
		message = strings.ToValidUTF8(message[:maxText], "")
	}
	c := metav1.Condition{Type: kind, Status: now, ObservedGeneration: s.ObservedGeneration, Reason: reason, Message: message,
		LastTransitionTime: metav1.NewTime(time.Now().UTC().Truncate(time.Second))}
	for i, was := range s.Conditions {
		if was.Type != kind {
			continue
		}
		if was.Status == c.Status {
			c.LastTransitionTime = was.LastTransitionTime
		}
		s.Conditions[i] = c
		return
	}
	s.Conditions = append(s.Conditions, c)
}

// refused says that the yard did not make of an object what it says.
func (s *status) refused(err error) {
	e := api.Redact(err)
	s.Reason = e.Detail
	s.set(accepted, false, reasonOf(string(e.Code)), e.Detail)
}

// session copies what a session is.
func (s *status) session(base string, now api.Session) {
	s.Phase, s.ID, s.Node, s.Reason = now.State, now.ID, now.Node, now.Reason
	s.URL = strings.TrimSuffix(base, "/") + "/api/v1/sessions/" + now.ID
	s.StartedAt, s.EndedAt = stamp(now.StartedAt), stamp(now.EndedAt)
	s.set(ready, now.State == api.StateRunning, reasonOf(string(now.State)), now.Reason)
}

func stamp(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// reasonOf makes of a word of the yard's a condition's reason: not_found becomes NotFound.
func reasonOf(word string) string {
	name := camel(word)
	return strings.ToUpper(name[:1]) + name[1:]
}

// write brings an object's status to s, if it is another.
func (r *reconciler) write(ctx context.Context, it item, o *unstructured.Unstructured, s status) error {
	if reflect.DeepEqual(statusOf(o), normal(s)) {
		return nil
	}
	tree, err := plain(s)
	if err != nil {
		return err
	}
	return r.apply(ctx, it, o, nil, tree, "status")
}

// normal returns s as it is after it was written and read.
func normal(s status) status {
	var out status
	if text, err := json.Marshal(s); err == nil {
		_ = json.Unmarshal(text, &out)
	}
	return out
}

// plain returns s as a tree.
func plain(s status) (map[string]any, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	var tree map[string]any
	return tree, json.Unmarshal(text, &tree)
}

// apply writes what this controller says of an object, by server-side apply: its finalizers, and for the subresource its status. It never makes
// an object: with the UID of one that is gone it fails.
func (r *reconciler) apply(ctx context.Context, it item, o *unstructured.Unstructured, finalizers []string, status map[string]any, sub ...string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out := &unstructured.Unstructured{Object: map[string]any{}}
	out.SetAPIVersion(o.GetAPIVersion())
	out.SetKind(o.GetKind())
	out.SetName(it.name)
	out.SetNamespace(it.namespace)
	out.SetUID(o.GetUID())
	if len(finalizers) > 0 {
		out.SetFinalizers(finalizers)
	}
	if status != nil {
		out.Object["status"] = status
	}
	_, err := r.client.Resource(it.resource).Namespace(it.namespace).Apply(ctx, it.name, out, metav1.ApplyOptions{FieldManager: manager, Force: true}, sub...)
	return err
}
