//go:build cluster

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// cutPatience is how long sessions of a lost node may take to run elsewhere: until Kubernetes believes it (40 s), until we do (5 s), the
// graceful end that nobody hears, and the start, all on a busy machine.
const cutPatience = 10 * time.Minute

// TestNodeCut takes a node off the network and brings it back. Its sessions say so and go on elsewhere, with their volumes and
// conversations; what still runs on the node meanwhile is believed by nobody, and gone when it is back.
func TestNodeCut(t *testing.T) {
	boss := admin(t)
	node := minority(t)
	leave(t, node)
	crowd := newCrowd(t, boss, 6)
	lost := map[string]corev1.Pod{} // by session
	for _, id := range crowd.ids() {
		if p := podOf(t, id); p.Spec.NodeName == node {
			lost[id] = p
		}
	}
	if len(lost) == 0 {
		t.Fatalf("no session is on %s", node)
	}
	t.Logf("%d of %d sessions are on %s", len(lost), len(crowd.sessions), node)
	crowd.answered(t)

	number, _ := strconv.Atoi(strings.TrimPrefix(node, "node"))
	if err := running.cluster.Cut(number); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	healed := false
	heal := func() {
		if !healed {
			healed = true
			if err := running.cluster.Heal(number); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(heal)

	for id, p := range lost {
		var s api.Session
		within(t, cutPatience, id+" runs elsewhere", func() bool {
			return ask(t, boss, "/api/v1/sessions/"+id, &s) && s.State == api.StateRunning && s.Node != "" && s.Node != node
		})
		var history api.Page[api.Change[api.Session]]
		within(t, patience, "the history of "+id, func() bool { return ask(t, boss, "/api/v1/sessions/"+id+"/history?limit=500", &history) })
		if !slices.ContainsFunc(history.Items, func(c api.Change[api.Session]) bool {
			return c.State.State == api.StateStarting && strings.Contains(c.Reason+c.State.Reason, "node")
		}) {
			t.Errorf("%s does not say that its node was lost: %+v", id, history.Items)
		}
		if len(processesOf(t, p)) == 0 {
			t.Errorf("nothing of the old pod of %s runs: this proves nothing", id)
		}
	}
	t.Logf("all run elsewhere after %s", time.Since(began).Round(100*time.Millisecond))

	heal()
	within(t, cutPatience, node+" is ready", func() bool {
		n, err := running.client.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
		return err == nil && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
	})
	for id, p := range lost {
		within(t, cutPatience, "nothing of the old pod of "+id+" runs", func() bool { return len(processesOf(t, p)) == 0 })
		if now := podOf(t, id); now.UID == p.UID {
			t.Errorf("%s still has its old pod", id)
		}
	}
	for _, name := range []string{"gateway", "auth", "sessions", "scheduler", "nats", "redis"} {
		within(t, cutPatience, name+" is whole again", func() bool {
			pods := podsOf(t, namespace, part(name))
			return len(pods) > 0 && !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return !ready(p) })
		})
	}
	crowd.answered(t)
	crowd.check(t)
	end(t, boss, crowd.ids()...)
}

// minority returns the node without which the bus has a majority.
func minority(t *testing.T) string {
	t.Helper()
	on := map[string]int{}
	for _, p := range podsOf(t, namespace, part("nats")) {
		on[p.Spec.NodeName]++
	}
	for _, node := range running.cluster.Nodes() {
		if on[node] <= 1 {
			return node
		}
	}
	t.Fatalf("servers of the bus are on %v", on)
	return ""
}

// leave sees to it that each service has a pod beyond node, as it has on a cluster of more nodes.
func leave(t *testing.T, node string) {
	t.Helper()
	cordon := func(verb string) {
		if _, err := kubectl(t.Context(), "", verb, node); err != nil {
			t.Fatal(err)
		}
	}
	cordon("cordon")
	defer cordon("uncordon")
	for _, of := range [][2]string{
		{"kube-system", "k8s-app=kube-dns"}, {namespace, part("gateway")}, {namespace, part("auth")}, {namespace, part("sessions")}, {namespace, part("scheduler")}, {namespace, part("redis")},
	} {
		elsewhere := func() bool {
			return slices.ContainsFunc(podsOf(t, of[0], of[1]), func(p corev1.Pod) bool { return p.Spec.NodeName != node && ready(p) })
		}
		if elsewhere() {
			continue
		}
		pods := podsOf(t, of[0], of[1])
		if len(pods) == 0 {
			t.Fatalf("there is no pod with %s", of[1])
		}
		if err := running.client.CoreV1().Pods(of[0]).Delete(t.Context(), pods[0].Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, of[1]+" is elsewhere", elsewhere)
	}
}

// ask reads what may not be had at the moment.
func ask(t *testing.T, c *yardtest.Client, path string, into any) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	status, body, err := c.Do(ctx, "GET", path, nil)
	if err != nil || status != http.StatusOK {
		return false
	}
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return true
}

// processesOf returns the processes of a pod, which its node may run although the cluster has forgotten it.
func processesOf(t *testing.T, p corev1.Pod) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, file := range files {
		groups, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(groups, []byte("pod"+string(p.UID))) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
