//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// TestTraffic bounds what a session may receive, in the kernel of its node.
func TestTraffic(t *testing.T) {
	boss := admin(t)
	eventually(t, "every node's agent has reported", func() bool {
		var page api.Page[api.TrafficNode]
		boss.Must(t, "GET", "/api/v1/traffic/nodes", nil, &page)
		agents := 0
		for _, n := range page.Items {
			if n.Agent != "" {
				agents++
			}
		}
		return agents == len(running.cluster.Nodes())
	})
	s := boss.Session(t, api.CreateSessionRequest{Profile: profile, Labels: map[string]string{"traffic": "slow"}})
	free := boss.Session(t, api.CreateSessionRequest{Profile: profile})

	// 1 MiB at 2 Mbit/s takes four seconds, and the burst is nothing beside it.
	const size = 1 << 20
	const bound = 3 * time.Second
	boss.Must(t, "PUT", "/api/v1/traffic/policies/slow", api.TrafficSpec{
		Name: "slow", AppliesTo: api.TrafficAppliesTo{Sessions: api.TrafficSelector{MatchLabels: map[string]string{"traffic": "slow"}}},
		TrafficRules: api.TrafficRules{Link: api.TrafficLink{Download: api.TrafficRate{Ceiling: "2Mbit"}, Upload: api.TrafficRate{Ceiling: "20Mbit"}}},
	}, nil)
	applied(t, boss, s, "the ceiling is in force", func(got api.TrafficSession) bool {
		return got.Intended != nil && got.Applied != nil && got.Applied.State == "applied" && got.Applied.Hash == got.Intended.Hash &&
			got.Effective.Download.Ceiling != nil && got.Effective.Download.Ceiling.Value == "2Mbit"
	})
	if tree := disciplines(t, s); !strings.Contains(tree, "htb") || !strings.Contains(tree, "rate 2Mbit") {
		t.Errorf("the node's kernel has\n%s", tree)
	}
	if took := upload(t, boss, s, size); took < bound {
		t.Errorf("%d bytes at 2 Mbit/s took %s", size, took)
	}
	if got := disciplines(t, free); strings.Contains(got, "rate 2Mbit") {
		t.Errorf("a session without the label has\n%s", got)
	}

	boss.Must(t, "DELETE", "/api/v1/traffic/policies/slow", nil, nil)
	eventually(t, "the kernel has forgotten it", func() bool { return !strings.Contains(disciplines(t, s), "rate 2Mbit") })
	end(t, boss, s.ID, free.ID)
}

// defaultRate is what a new session's pod may send and receive until its own plan is there: something that nobody else would set, and no burden.
const defaultRate = "777Mbit"

// TestNewPods: the node agent learns from the nodes' containerd which pods are sessions', and where. It puts the default policy on one that waits for a session, and the
// session's own plan in its place.
func TestNewPods(t *testing.T) {
	boss := admin(t)
	const name = "sheltered"
	boss.Must(t, "POST", "/api/v1/profiles", api.Profile{Name: name, Agent: api.Agent{Kind: "demo"}, Pool: &api.Pool{Size: 1}}, nil)
	var waits []corev1.Pod
	eventually(t, "a pod waits", func() bool {
		waits = podsOf(t, sessionSpace, "agentyard.dev/pool=free,agentyard.dev/profile="+name)
		return len(waits) == 1 && ready(waits[0])
	})
	sheltered := func(p corev1.Pod) bool { return strings.Contains(disciplinesOf(t, p), "rate "+defaultRate) }
	eventually(t, "the default policy holds for it", func() bool { return sheltered(waits[0]) })

	s := boss.Session(t, api.CreateSessionRequest{Profile: name})
	if p := podOf(t, s.ID); p.UID != waits[0].UID {
		t.Fatalf("%s is in the pod %s, which did not wait for it", s.ID, p.Name)
	}
	eventually(t, "the session's own plan is in its place", func() bool { return !sheltered(waits[0]) })
	boss.Must(t, "DELETE", "/api/v1/profiles/"+name, nil, nil)
	end(t, boss, s.ID)
	eventually(t, "no pod waits any more", func() bool { return len(podsOf(t, sessionSpace, "agentyard.dev/profile="+name)) == 0 })
}

// applied waits for what the API says of a session's traffic.
func applied(t *testing.T, c *yardtest.Client, s api.Session, what string, ok func(api.TrafficSession) bool) {
	t.Helper()
	var got api.TrafficSession
	defer func() {
		if t.Failed() {
			t.Logf("the traffic of %s: %+v, intended %+v, applied %+v", s.ID, got, got.Intended, got.Applied)
		}
	}()
	eventually(t, what, func() bool { return ask(t, c, "/api/v1/traffic/sessions/"+s.ID, &got) && ok(got) })
}

// disciplines returns what the kernel has at the node's side of a session's interface.
func disciplines(t *testing.T, s api.Session) string {
	t.Helper()
	return disciplinesOf(t, podOf(t, s.ID))
}

func disciplinesOf(t *testing.T, p corev1.Pod) string {
	t.Helper()
	node := running.cluster.PID(p.Spec.NodeName + "/kubelet")
	inside := 0
	for _, pid := range processesOf(t, p) {
		inside = pid
	}
	if node == 0 || inside == 0 {
		t.Fatalf("%s: its node is process %d, it is %d", p.Name, node, inside)
	}
	peer, err := exec.CommandContext(t.Context(), "nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", inside), "ip", "-o", "link", "show", "eth0").Output()
	if err != nil {
		t.Fatalf("the interface of %s: %v", p.Name, err)
	}
	_, rest, _ := strings.Cut(string(peer), "eth0@if")
	index, _, _ := strings.Cut(rest, ":")
	script := fmt.Sprintf(`d=$(ip -o link | sed -n 's/^%s: \([^@:]*\).*/\1/p'); tc qdisc show dev "$d"; tc class show dev "$d"`, index)
	out, err := exec.CommandContext(t.Context(), "nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", node), "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("the disciplines of %s: %v: %s", p.Name, err, out)
	}
	return string(out)
}

// upload writes a file into a session's workspace and says how long it took.
func upload(t *testing.T, c *yardtest.Client, s api.Session, size int) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "PUT", c.URL+"/api/v1/sessions/"+s.ID+"/files?path=big", strings.NewReader(strings.Repeat("x", size)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.Key)
	began := time.Now()
	resp, err := c.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		t.Fatalf("write a file: %s", resp.Status)
	}
	return time.Since(began)
}
