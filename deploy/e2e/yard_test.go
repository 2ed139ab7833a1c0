//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// profile is of sessions with a volume of their own.
const profile = "kept"

// admin returns a client with the key of the first admin, as the notes of the chart say where it is. It goes to the Service of the gateway, as a
// load balancer would.
func admin(t *testing.T) *yardtest.Client {
	t.Helper()
	secret, err := running.client.CoreV1().Secrets(namespace).Get(t.Context(), release+"-admin", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := as(t, strings.TrimSpace(string(secret.Data["admin.key"])))
	status, body, err := c.Do(t.Context(), "POST", "/api/v1/profiles", api.Profile{
		Name: profile, Agent: api.Agent{Kind: "demo"}, Pod: api.Pod{Volume: &api.Volume{Bytes: 16 << 20}},
	})
	if err != nil || status != http.StatusCreated && status != http.StatusConflict {
		t.Fatalf("make a profile: %d, %v: %s", status, err, body)
	}
	return c
}

// as returns a client with a key.
func as(t *testing.T, key string) *yardtest.Client {
	t.Helper()
	service, err := running.client.CoreV1().Services(namespace).Get(t.Context(), release+"-gateway", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// A connection to a node that is cut off ends within 20 s.
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3}}
	transport := &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 64, ResponseHeaderTimeout: patience}
	t.Cleanup(transport.CloseIdleConnections)
	return &yardtest.Client{URL: "http://" + service.Spec.ClusterIP, Key: key, HTTP: &http.Client{Transport: transport}}
}

// person makes a user of a role and returns a client with a key of theirs.
func person(t *testing.T, boss *yardtest.Client, name string, role api.Role) (api.User, *yardtest.Client) {
	t.Helper()
	var user api.User
	boss.Must(t, "POST", "/api/v1/users", api.CreateUserRequest{Name: name, Roles: []api.Role{role}}, &user)
	var key api.CreateKeyResponse
	boss.Must(t, "POST", "/api/v1/keys", api.CreateKeyRequest{Name: "test", User: user.ID}, &key)
	return user, as(t, key.Secret)
}

func get(t *testing.T, c *yardtest.Client, id string) api.Session {
	t.Helper()
	var s api.Session
	c.Must(t, "GET", "/api/v1/sessions/"+id, nil, &s)
	return s
}

// end deletes sessions and waits until they have ended and nothing of them is in the cluster.
func end(t *testing.T, c *yardtest.Client, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if status, body, err := c.Do(t.Context(), "DELETE", "/api/v1/sessions/"+id, nil); err != nil || status != http.StatusAccepted {
			t.Fatalf("delete %s: %d, %v: %s", id, status, err, body)
		}
	}
	for _, id := range ids {
		eventually(t, id+" has terminated", func() bool { return get(t, c, id).State == api.StateTerminated })
		eventually(t, "nothing is left of "+id, func() bool {
			of := metav1.ListOptions{LabelSelector: "agentyard.dev/session=" + id}
			claims, err := running.client.CoreV1().PersistentVolumeClaims(sessionSpace).List(t.Context(), of)
			return err == nil && len(claims.Items) == 0 && len(podsOf(t, sessionSpace, of.LabelSelector)) == 0
		})
	}
}

func podsOf(t *testing.T, ns, selector string) []corev1.Pod {
	t.Helper()
	list, err := running.client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// podOf returns a session's pod.
func podOf(t *testing.T, id string) corev1.Pod {
	t.Helper()
	pods := podsOf(t, sessionSpace, "agentyard.dev/session="+id)
	if len(pods) != 1 {
		t.Fatalf("%s has %d pods", id, len(pods))
	}
	return pods[0]
}

// part returns the selector of a part of the yard.
func part(name string) string {
	return "app.kubernetes.io/name=" + name + ",app.kubernetes.io/instance=" + release
}

func ready(p corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

// kill ends a program in a pod with SIGKILL, as the kernel would when memory is short.
func kill(t *testing.T, p corev1.Pod, program string) {
	t.Helper()
	killed := false
	for _, pid := range processesOf(t, p) {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if strings.TrimSpace(string(comm)) == program && syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed = true
		}
	}
	if !killed {
		t.Fatalf("pod %s has no process %s", p.Name, program)
	}
	t.Logf("%s kill -9 %s in %s on %s", time.Now().Format("15:04:05.0"), program, p.Name, p.Spec.NodeName)
}

// eventually waits for what is expected.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within(t, patience, what, ok)
}

func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(d)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// transcript sends a message and returns all that its turn put into the log.
func transcript(t *testing.T, c *yardtest.Client, id, message string) string {
	t.Helper()
	var accepted api.Accepted
	c.Must(t, "POST", "/api/v1/sessions/"+id+"/messages", map[string]any{"content": message}, &accepted)
	var b strings.Builder
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.FollowUntil(ctx, id, accepted.Seq, func(ev api.Event) bool {
		b.WriteString(ev.Content + ev.Delta + ev.Detail + string(ev.Raw))
		return ev.Type != api.EventStatus || ev.ReplyTo != accepted.ID || ev.Activity != api.ActivityIdle
	}); err != nil {
		t.Fatalf("the answer to %q: %v", message, err)
	}
	return b.String()
}

func decode(t *testing.T, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(fmt.Errorf("%w in %s", err, data))
	}
}
