//go:build cluster

package clustertest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/kube"
	"agentyard.dev/services/sessions/kube/clustertest"
)

func TestSession(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	s := y.create("")
	s = y.reaches(s.ID, api.StateRunning)
	t.Logf("from created to running: %s", s.StartedAt.Sub(s.CreatedAt))
	if s.Runtime != kube.Name || !strings.HasPrefix(s.Node, "node") {
		t.Errorf("it runs on %q of %q", s.Node, s.Runtime)
	}
	if got := y.ask(s.ID, "echo hello from a pod"); !strings.Contains(got, "hello from a pod") {
		t.Errorf("answered %q", got)
	}
	t.Run("is a pod without privileges", func(t *testing.T) {
		for command, want := range map[string]string{
			"busybox id -u":                             "999",
			"busybox grep -c . /proc/self/uid_map":      "exit 0",
			"busybox grep CapBnd /proc/self/status":     "0000000000000000",
			"busybox grep NoNewPrivs /proc/self/status": "1",
			"busybox grep Seccomp: /proc/self/status":   "2",
			"busybox touch /x":                          "Read-only file system",
			"busybox touch /tmp/x":                      "exit 0",
			"busybox touch $HOME/x":                     "exit 0",
			"busybox touch x":                           "exit 0",
			"busybox ls /var/run/secrets":               "No such file",
			"busybox unshare -U busybox true":           "ermi", // not permitted, or no permission
		} {
			if got := y.ask(s.ID, "run "+command); !strings.Contains(got, want) {
				t.Errorf("%s: %q, want %q", command, got, want)
			}
		}
	})
	t.Run("the agent cannot read the runner", func(t *testing.T) {
		for command, want := range map[string]string{
			"busybox cat /proc/1/environ":        "ermission denied",
			"busybox cat /proc/1/mem":            "ermission denied",
			"busybox ls /proc/1/fd":              "ermission denied",
			"busybox cat /proc/1/maps":           "ermission denied",
			"busybox env":                        "exit 0",
			"busybox kill -9 1; busybox sleep 1": "exit 0", // process 1 of a namespace is not killed from inside
		} {
			got := y.ask(s.ID, "run "+command)
			if !strings.Contains(got, want) || strings.Contains(got, "NATS") || strings.Contains(got, "AGENTYARD_BUS") {
				t.Errorf("%s: %q, want %q", command, got, want)
			}
		}
	})
	t.Run("its bootstrap credential is of no use any more", func(t *testing.T) { y.spent(t, s.ID) })
	y.end(s.ID)
	if wrote := y.calls.changes(); len(wrote) != 2 {
		t.Errorf("a session of the default profile made %d changes in the cluster, not its pod and its deletion: %q", len(wrote), wrote)
	}
}

// spent asks again with what the pod's manifest holds.
func (y *yard) spent(t *testing.T, id string) {
	p := y.pod(id)
	env := map[string]string{}
	for _, v := range p.Spec.Containers[0].Env {
		env[v.Name] = v.Value
	}
	if strings.Contains(p.String(), y.srv.URL()+"/") || env["AGENTYARD_BUS_CREDENTIALS"] == "" {
		t.Fatalf("the pod has no bootstrap credential: %v", env)
	}
	conn, err := bus.Connect(bus.Config{URL: y.srv.URL(), Credentials: []byte(env["AGENTYARD_BUS_CREDENTIALS"]), Name: "thief"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	client := rpc.NewClient(conn, rpc.ClientConfig{Name: "thief", Timeout: patience})
	unheard := rpc.NewClient(conn, rpc.ClientConfig{Name: "thief", Timeout: 2 * time.Second})
	pod := env["AGENTYARD_POD_ID"]
	ask := func(tenant, session string, req api.RunnerBindRequest) error {
		client := client
		if session != pod {
			client = unheard // nobody answers
		}
		_, err := rpc.CallAsSession(t.Context(), client, tenant, session, api.RunnerBind, req)
		return err
	}
	if err := ask(api.PodTenant, pod, api.RunnerBindRequest{Pod: p.Name, UID: string(p.UID)}); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("bound a second time: %v", err)
	}
	if err := ask(api.PodTenant, pod, api.RunnerBindRequest{Pod: p.Name, UID: "another"}); api.CodeOf(err) != api.CodeDenied {
		t.Errorf("with another UID: %v", err)
	}
	// The bus lets nothing else through: no other pod's subject, no session's, no other question.
	if err := ask(api.PodTenant, api.NewID(api.KindSession), api.RunnerBindRequest{Pod: p.Name, UID: string(p.UID)}); err == nil || api.CodeOf(err) == api.CodeConflict {
		t.Errorf("on another pod's subject: %v", err)
	}
	if err := ask(api.HomeTenant, id, api.RunnerBindRequest{Pod: p.Name, UID: string(p.UID)}); err == nil || api.CodeOf(err) == api.CodeConflict {
		t.Errorf("on the session's subject: %v", err)
	}
	if _, err := rpc.CallAsSession(t.Context(), unheard, api.PodTenant, pod, api.RunnerInbox, api.RunnerInboxRequest{}); err == nil {
		t.Error("a pod read an inbox")
	}
}

func TestForeignImage(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	y.profile(api.Profile{
		Name: "shell", Agent: api.Agent{Kind: "demo"}, Image: shellImage,
		Pod: api.Pod{
			Volume: &api.Volume{Bytes: 16 << 20}, Labels: map[string]string{"team": "red", "agentyard.dev.session": "x"},
			Annotations: map[string]string{"note": "any text, even this"},
		},
	})
	s := y.create("shell")
	y.reaches(s.ID, api.StateRunning)
	if got := y.ask(s.ID, "run busybox ls /agentyard"); !strings.Contains(got, "runner") {
		t.Errorf("answered %q", got)
	}
	p := y.pod(s.ID)
	if p.Labels["user.agentyard.dev/team"] != "red" || p.Annotations["user.agentyard.dev/note"] == "" || p.Labels["agentyard.dev/session"] != s.ID {
		t.Errorf("labels %v, annotations %v", p.Labels, p.Annotations)
	}
	y.ask(s.ID, "write kept\nthe work")
	if _, err := rpc.Call(y.admin, y.client, api.PauseSession, api.SessionRef{ID: s.ID}); err != nil {
		t.Fatal(err)
	}
	y.reaches(s.ID, api.StatePaused)
	if _, err := rpc.Call(y.admin, y.client, api.ResumeSession, api.SessionRef{ID: s.ID}); err != nil {
		t.Fatal(err)
	}
	y.reaches(s.ID, api.StateRunning)
	if got := y.ask(s.ID, "read kept"); !strings.Contains(got, "the work") {
		t.Errorf("after a pause: %q", got)
	}
	y.end(s.ID)
}

// TestStartFails: a session that cannot start says the true reason.
func TestStartFails(t *testing.T) {
	t.Parallel()
	// As long as a busy cluster may take to find the reason out; all of them wait for it at the same time.
	y := newYard(t, func(c *sessions.Config, _ *kube.Config) { c.StartTimeout = time.Minute })
	y.profile(api.Profile{Name: "large", Agent: api.Agent{Kind: "demo"}, Resources: api.Resources{CPUs: 1000}, Pod: api.Pod{Requests: api.Resources{CPUs: 1000}}})
	y.profile(api.Profile{Name: "imageless", Agent: api.Agent{Kind: "demo"}, Image: "localhost/there/is:none"})
	y.profile(api.Profile{Name: "classless", Agent: api.Agent{Kind: "demo"}, Pod: api.Pod{RuntimeClass: "nowhere"}})
	y.profile(api.Profile{Name: "nodeless", Agent: api.Agent{Kind: "demo"}, Pod: api.Pod{NodeSelector: map[string]string{"disk": "fast"}}})
	y.profile(api.Profile{Name: "unbound", Agent: api.Agent{Kind: "demo"}, Pod: api.Pod{Volume: &api.Volume{Bytes: 16 << 20, StorageClass: "nowhere"}}})
	ids := map[string]string{}
	for profile, want := range map[string]string{
		"large": "Insufficient cpu", "imageless": "there/is:none", "classless": "nowhere", "nodeless": "node affinity/selector", "unbound": "unbound immediate PersistentVolumeClaims",
	} {
		ids[y.create(profile).ID] = want
	}
	for id, want := range ids {
		s := y.get(id)
		clustertest.Eventually(t, "it failed", func() bool { s = y.get(id); return s.State.Final() })
		if s.State != api.StateFailed || !strings.Contains(s.Reason, want) {
			t.Errorf("%s: %s: %q, want %q", s.Profile, s.State, s.Reason, want)
		}
	}
}

// TestStartExceedsQuota: a session for which the namespace's quota has no room says so.
func TestStartExceedsQuota(t *testing.T) {
	t.Parallel()
	y := newYard(t, func(c *sessions.Config, _ *kube.Config) { c.StartTimeout = 30 * time.Second }) // the API server refuses the pod at once
	_, err := y.kube.CoreV1().ResourceQuotas(y.namespace).Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "none"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "the quota counts", func() bool {
		q, err := y.kube.CoreV1().ResourceQuotas(y.namespace).Get(t.Context(), "none", metav1.GetOptions{})
		return err == nil && len(q.Status.Hard) > 0
	})
	s := y.create("")
	clustertest.Eventually(t, "it failed", func() bool { s = y.get(s.ID); return s.State.Final() })
	if !strings.Contains(s.Reason, "exceeded quota") {
		t.Errorf("reason %q", s.Reason)
	}
}
