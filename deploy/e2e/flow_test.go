//go:build cluster

package e2e

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/libs/api"
)

// TestCreation is how a session comes to be, step by step.
func TestCreation(t *testing.T) {
	boss := admin(t)
	_, member := person(t, boss, "creator", api.RoleMember)
	viewerUser, viewer := person(t, boss, "onlooker", api.RoleViewer)
	want := api.CreateSessionRequest{Profile: profile, Title: "the flow"}

	t.Run("the token is verified", func(t *testing.T) {
		for name, key := range map[string]string{"none": "", "a made-up one": member.Key[:len(member.Key)-4] + "aaaa"} {
			if status, body, err := as(t, key).Do(t.Context(), "POST", "/api/v1/sessions", want); err != nil || status != http.StatusUnauthorized {
				t.Errorf("%s: %d, %v: %s", name, status, err, body)
			}
		}
	})
	t.Run("session:create is checked", func(t *testing.T) {
		if status, body, err := viewer.Do(t.Context(), "POST", "/api/v1/sessions", want); err != nil || status != http.StatusForbidden {
			t.Fatalf("a viewer: %d, %v: %s", status, err, body)
		}
		eventually(t, "the refusal is in the audit log", func() bool {
			var page api.Page[api.AuditRecord]
			boss.Must(t, "GET", "/api/v1/audit?limit=500&actor="+viewerUser.ID, nil, &page)
			return slices.ContainsFunc(page.Items, func(r api.AuditRecord) bool { return r.Action == "sessions.create" && r.Outcome == "denied" })
		})
	})
	if pods := podsOf(t, sessionSpace, ""); len(pods) != 0 {
		t.Errorf("what was refused has made %d pods", len(pods))
	}

	// id, URL and status are answered when the runner is ready.
	req, err := http.NewRequestWithContext(t.Context(), "POST", member.URL+"/api/v1/sessions?wait=running", strings.NewReader(`{"profile":"`+profile+`","title":"the flow"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+member.Key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := member.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var s api.Session
	text := new(strings.Builder)
	if _, err := io.Copy(text, resp.Body); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("create: %s: %s", resp.Status, text)
	}
	decode(t, []byte(text.String()), &s)
	if !api.ValidID(api.KindSession, s.ID) || s.State != api.StateRunning || s.Runtime != "kube" || s.Node == "" {
		t.Fatalf("answered %+v", s)
	}
	if location := resp.Header.Get("Location"); location != "/api/v1/sessions/"+s.ID {
		t.Errorf("its URL is said to be %q", location)
	}

	t.Run("the resources are made", func(t *testing.T) {
		p := podOf(t, s.ID)
		restricted(t, p)
		if !ready(p) || p.Spec.NodeName != s.Node {
			t.Errorf("the pod is on %s, ready %v; the session says %s", p.Spec.NodeName, ready(p), s.Node)
		}
		claim, err := running.client.CoreV1().PersistentVolumeClaims(sessionSpace).Get(t.Context(), s.ID, metav1.GetOptions{})
		if err != nil || claim.Status.Phase != corev1.ClaimBound {
			t.Errorf("its volume: %v, %v", claim.Status.Phase, err)
		}
	})
	t.Run("a message is answered, and events say so", func(t *testing.T) {
		var accepted api.Accepted
		member.Must(t, "POST", "/api/v1/sessions/"+s.ID+"/messages", map[string]any{"content": "echo through the whole yard"}, &accepted)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var kinds []api.EventType
		answer := ""
		if err := member.FollowUntil(ctx, s.ID, 0, func(ev api.Event) bool {
			kinds = append(kinds, ev.Type)
			if ev.Type == api.EventAgentMessage && ev.ReplyTo == accepted.ID {
				answer = ev.Content
			}
			return ev.Type != api.EventStatus || ev.ReplyTo != accepted.ID || ev.Activity != api.ActivityIdle
		}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(answer, "through the whole yard") || !strings.Contains(answer, "[done "+accepted.ID+"]") {
			t.Errorf("answered %q", answer)
		}
		if !slices.Contains(kinds, api.EventUserMessage) {
			t.Errorf("the events were %v", kinds)
		}
	})
	t.Run("the runner's own interface is proxied", func(t *testing.T) {
		if status, body, err := member.Do(t.Context(), "GET", "/api/v1/sessions/"+s.ID+"/agent/status", nil); err != nil || status != http.StatusOK {
			t.Errorf("%d, %v: %s", status, err, body)
		}
	})
	t.Run("one that was put aside comes back for it", func(t *testing.T) {
		member.Must(t, "POST", "/api/v1/sessions/"+s.ID+"/pause", nil, nil)
		eventually(t, "it is paused, and its pod gone", func() bool {
			return get(t, member, s.ID).State == api.StatePaused && len(podsOf(t, sessionSpace, "agentyard.dev/session="+s.ID)) == 0
		})
		began := time.Now()
		if status, body, err := member.Do(t.Context(), "GET", "/api/v1/sessions/"+s.ID+"/agent/status", nil); err != nil || status != http.StatusOK {
			t.Errorf("%d, %v: %s", status, err, body)
		}
		t.Logf("the request was held for %s", time.Since(began).Round(10*time.Millisecond))
	})
	end(t, member, s.ID)
}

// restricted checks what keeps a session's pod from its node and its neighbours.
func restricted(t *testing.T, p corev1.Pod) {
	t.Helper()
	yes := func(b *bool) bool { return b != nil && *b }
	no := func(b *bool) bool { return b != nil && !*b }
	pod := p.Spec.SecurityContext
	if pod == nil || !yes(pod.RunAsNonRoot) || pod.RunAsUser == nil || *pod.RunAsUser != 999 ||
		pod.SeccompProfile == nil || pod.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the pod's security context is %+v", pod)
	}
	if !no(p.Spec.AutomountServiceAccountToken) || p.Spec.HostNetwork || p.Spec.HostPID || p.Spec.HostIPC {
		t.Error("it has a token, or something of its host's")
	}
	for _, c := range p.Spec.Containers {
		s := c.SecurityContext
		if s == nil || !no(s.AllowPrivilegeEscalation) || !yes(s.ReadOnlyRootFilesystem) || s.Capabilities == nil ||
			!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
			t.Errorf("the security context of %s is %+v", c.Name, s)
		}
		if c.Resources.Limits.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Memory().IsZero() {
			t.Errorf("the resources of %s are %+v", c.Name, c.Resources)
		}
	}
	for _, v := range p.Spec.Volumes {
		if v.HostPath != nil || v.Secret != nil || v.Projected != nil {
			t.Errorf("it has the volume %s: %+v", v.Name, v.VolumeSource)
		}
	}
}

// TestDeletion is how one goes: by its owner, or by somebody with session:delete.
func TestDeletion(t *testing.T) {
	boss := admin(t)
	owner, mine := person(t, boss, "owner", api.RoleMember)
	_, other := person(t, boss, "other", api.RoleMember)
	first := mine.Session(t, api.CreateSessionRequest{Profile: profile})
	second := mine.Session(t, api.CreateSessionRequest{Profile: profile})
	for _, path := range []string{first.ID, second.ID} {
		if status, body, err := other.Do(t.Context(), "DELETE", "/api/v1/sessions/"+path, nil); err != nil || status != http.StatusForbidden && status != http.StatusNotFound {
			t.Fatalf("another member: %d, %v: %s", status, err, body)
		}
	}
	if answer := transcript(t, mine, first.ID, "echo still here"); !strings.Contains(answer, "still here") {
		t.Errorf("after the refusal it answers %q", answer)
	}
	end(t, mine, first.ID)
	end(t, boss, second.ID)

	for id, by := range map[string]string{first.ID: owner.ID, second.ID: ""} {
		s := get(t, mine, id)
		if s.State != api.StateTerminated || s.EndedAt == nil {
			t.Errorf("%s is %s", id, s.State)
		}
		var history api.Page[api.Change[api.Session]]
		mine.Must(t, "GET", "/api/v1/sessions/"+id+"/history?limit=500", nil, &history)
		var states []api.State
		var deleted string
		for _, change := range history.Items {
			if len(states) == 0 || states[len(states)-1] != change.State.State {
				states = append(states, change.State.State)
			}
			if change.State.State == api.StateStopping && deleted == "" {
				deleted = change.Actor
			}
		}
		if want := []api.State{api.StatePending, api.StateStarting, api.StateRunning, api.StateStopping, api.StateTerminated}; !slices.Equal(states, want) {
			t.Errorf("%s went through %v, want %v", id, states, want)
		}
		if deleted == "" || by != "" && deleted != by || by == "" && deleted == owner.ID {
			t.Errorf("%s was deleted by %q", id, deleted)
		}
		if evs := mine.Events(t, id); len(evs) == 0 {
			t.Errorf("the log of %s is gone", id)
		}
	}
}
