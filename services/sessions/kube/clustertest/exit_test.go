//go:build cluster

package clustertest_test

import (
	"strings"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/kube"
	"agentyard.dev/services/sessions/kube/clustertest"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/runtimetest"
)

// exit waits for the end of a launch. That of one whose node is silent takes near a minute: until the cluster believes it, and the grace that nobody hears.
func exit(t *testing.T, r sessions.Runtime, l launch.Launch) sessions.Exit {
	t.Helper()
	for {
		select {
		case x := <-r.Exits():
			if x.Session == l.Session {
				return x
			}
		case <-time.After(2 * patience):
			t.Fatal("the end was not told")
		}
	}
}

// TestExits: how a runner ended is said truly.
func TestExits(t *testing.T) {
	t.Parallel()
	e := place(t)
	r := e.New(t)
	start := func(t *testing.T, l launch.Launch) sessions.Ref {
		t.Helper()
		l.Pod.Volume = nil
		if _, err := r.Start(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		return sessions.Ref{Tenant: l.Tenant, Session: l.Session}
	}
	t.Run("a crash, with its last words", func(t *testing.T) {
		l := runtimetest.Launch("FAIL")
		start(t, l)
		if x := exit(t, r, l); !strings.Contains(x.Reason, "exit status 3") || !strings.Contains(x.Reason, "it was not to be") {
			t.Errorf("reason %q", x.Reason)
		}
	})
	t.Run("too much memory", func(t *testing.T) {
		l := runtimetest.Launch("HUNGRY")
		l.Sandbox.Resources.MemoryBytes = 48 << 20
		start(t, l)
		if x := exit(t, r, l); !strings.Contains(x.Reason, "OOMKilled") {
			t.Errorf("reason %q", x.Reason)
		}
	})
	t.Run("an eviction", func(t *testing.T) {
		l := runtimetest.Launch()
		ref := start(t, l)
		e.Up(t, ref, 1)
		err := e.client.PolicyV1().Evictions(e.namespace).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: e.namespace, Name: l.Session + "-1"}})
		if err != nil {
			t.Fatal(err)
		}
		if x := exit(t, r, l); !strings.Contains(x.Reason, "evicted") {
			t.Errorf("reason %q", x.Reason)
		}
	})
	t.Run("a deletion by somebody else", func(t *testing.T) {
		l := runtimetest.Launch()
		ref := start(t, l)
		e.Up(t, ref, 1)
		if err := e.client.CoreV1().Pods(e.namespace).Delete(t.Context(), l.Session+"-1", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		exit(t, r, l)
	})
}

// TestNodeLoss: what was on a node that does not answer goes on elsewhere.
func TestNodeLoss(t *testing.T) {
	t.Parallel()
	e := place(t)
	cfg := e.config()
	cfg.NodeLoss = 2 * time.Second
	r := recorder{run(t, cfg, kube.Deps{Cluster: clustertest.Config(t), BusURL: e.srv.URL(), Credentials: e.issuer.PodCredentials}), e}
	l := runtimetest.Launch()
	l.Pod.Volume = nil
	l.Pod.NodeSelector = map[string]string{"kubernetes.io/hostname": spareNode}
	l.Pod.Tolerations = []api.Toleration{{Key: clustertest.Spare, Operator: "Exists"}}
	ref := sessions.Ref{Tenant: l.Tenant, Session: l.Session}
	if _, err := r.Start(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	e.Up(t, ref, 1)
	if err := clustertest.Cluster().Cut(3); err != nil {
		t.Fatal(err)
	}
	healed := false
	heal := func() {
		if !healed {
			healed = true
			if err := clustertest.Cluster().Heal(3); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(heal)
	if x := exit(t, r, l); !strings.Contains(x.Reason, "node") {
		t.Errorf("reason %q", x.Reason)
	}
	l.Incarnation++
	l.Pod.NodeSelector, l.Pod.Tolerations = nil, nil
	if _, err := r.Start(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	e.Up(t, ref, 2)
	heal()
	clustertest.Eventually(t, "the lost pod is gone", func() bool { return e.pod(t, ref, 1) == nil })
	if err := r.Stop(t.Context(), ref, 5*time.Second, false); err != nil {
		t.Fatal(err)
	}
}
