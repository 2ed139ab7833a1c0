//go:build cluster

package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"agentyard.dev/services/standalone/yardtest"
)

// liveSessions is how many sessions there are under the kills.
const liveSessions = 20

// TestKills kills what a yard is made of, one after the other, while sessions work: nothing that was accepted is lost, streams go
// on where they were, and at the end nothing is left of anything.
func TestKills(t *testing.T) {
	boss := admin(t)
	crowd := newCrowd(t, boss, liveSessions)
	for _, blow := range []struct {
		name   string
		strike func(t *testing.T)
	}{
		{"the sessions service", func(t *testing.T) { killAll(t, "sessions", "sessions") }},
		{"the gateway", func(t *testing.T) { killAll(t, "gateway", "gateway") }},
		{"a session's pod", func(t *testing.T) { killSession(t, boss, crowd.sessions[0]) }},
		{"the leader of the bus", killLeader},
		{"Redis", func(t *testing.T) { killAll(t, "redis", "redis-server") }},
		{"a node's kubelet", killKubelet},
	} {
		began := time.Now()
		if !t.Run(blow.name, func(t *testing.T) {
			blow.strike(t)
			crowd.answered(t)
		}) {
			t.FailNow()
		}
		t.Logf("%s: every session answers again after %s", blow.name, time.Since(began).Round(100*time.Millisecond))
	}
	crowd.check(t)
	end(t, boss, crowd.ids()...)
	if left := podsOf(t, sessionSpace, ""); len(left) != 0 {
		t.Errorf("%d pods are left", len(left))
	}
	claims, err := kubectl(t.Context(), "", "get", "pvc", "-n", sessionSpace, "-o", "name")
	if err != nil || claims != "" {
		t.Errorf("volumes are left: %v, %s", err, claims)
	}
}

// killAll kills every process of a service at once and waits until its pods are ready again.
func killAll(t *testing.T, name, program string) {
	t.Helper()
	restarts := map[string]int32{}
	for _, p := range podsOf(t, namespace, part(name)) {
		restarts[p.Name] = restartsOf(p)
		kill(t, p, program)
	}
	for pod, before := range restarts {
		eventually(t, pod+" is ready again", func() bool {
			for _, p := range podsOf(t, namespace, part(name)) {
				if p.Name == pod {
					return ready(p) && restartsOf(p) > before
				}
			}
			t.Fatalf("%s is gone", pod)
			return false
		})
	}
}

func restartsOf(p corev1.Pod) (n int32) {
	for _, c := range p.Status.ContainerStatuses {
		n += c.RestartCount
	}
	return n
}

// killSession kills the runner, and with it the pod, of a session: another pod goes on with its volume and its conversation.
func killSession(t *testing.T, boss *yardtest.Client, c *conversation) {
	t.Helper()
	id := c.session
	c.mu.Lock()
	c.besides += 2
	c.mu.Unlock()
	transcript(t, boss, id, "write kept.txt\nover the death of a pod")
	before := podOf(t, id)
	kill(t, before, "runner")
	eventually(t, "another pod is ready", func() bool {
		for _, p := range podsOf(t, sessionSpace, "agentyard.dev/session="+id) {
			if p.UID != before.UID && ready(p) {
				return true
			}
		}
		return false
	})
	eventually(t, "the session says so", func() bool { return get(t, boss, id).State == "running" })
	if answer := transcript(t, boss, id, "read kept.txt"); !strings.Contains(answer, "over the death of a pod") {
		t.Errorf("its file reads %q", answer)
	}
}

// killLeader kills the server that leads the bus's cluster.
func killLeader(t *testing.T) {
	t.Helper()
	leader := ""
	for _, p := range podsOf(t, namespace, part("nats")) {
		// Its monitoring port is for its node only.
		pid := running.cluster.PID(p.Spec.NodeName + "/kubelet")
		out, err := exec.CommandContext(t.Context(), "nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", pid),
			busybox, "wget", "-q", "-O", "-", "http://"+p.Status.PodIP+":8222/jsz").Output()
		if err != nil {
			t.Fatalf("ask %s who leads: %v", p.Name, err)
		}
		var answer struct {
			Meta struct {
				Leader string `json:"leader"`
			} `json:"meta_cluster"`
		}
		if err := json.Unmarshal(out, &answer); err != nil {
			t.Fatal(err)
		}
		leader = answer.Meta.Leader
	}
	for _, p := range podsOf(t, namespace, part("nats")) {
		if p.Name != leader {
			continue
		}
		before := restartsOf(p)
		kill(t, p, "nats-server")
		eventually(t, leader+" is ready again", func() bool {
			for _, p := range podsOf(t, namespace, part("nats")) {
				if p.Name == leader {
					return ready(p) && restartsOf(p) > before
				}
			}
			return false
		})
		return
	}
	t.Fatalf("nobody is the leader %q", leader)
}

// killKubelet kills a node's kubelet; its pods go on.
func killKubelet(t *testing.T) {
	t.Helper()
	const component = "node1/kubelet"
	pid := running.cluster.PID(component)
	if pid == 0 {
		t.Fatal("there is no kubelet")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kubelet is started again", func() bool {
		now := running.cluster.PID(component)
		return now != 0 && now != pid
	})
}
