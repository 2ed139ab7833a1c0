//go:build cluster

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/deploy/cluster"
	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// TestForbiddenCalls: what the accounts of the yard may not ask the API server. That they may what they need, the other tests show.
func TestForbiddenCalls(t *testing.T) {
	manager := "system:serviceaccount:" + namespace + ":" + release + "-sessions"
	pod := "system:serviceaccount:" + sessionSpace + ":" + release + "-session"
	type call struct{ verb, resource, ns string }
	may := func(user string, c call) bool {
		resource, sub, _ := strings.Cut(c.resource, "/")
		group := ""
		if g, r, ok := strings.Cut(resource, ":"); ok {
			group, resource = g, r
		}
		review, err := running.client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: user, Groups: []string{"system:serviceaccounts", "system:authenticated"},
				ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: c.verb, Group: group, Resource: resource, Subresource: sub, Namespace: c.ns}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return review.Status.Allowed
	}
	if !may(manager, call{"create", "pods", sessionSpace}) {
		t.Error("the manager may not make pods: the reviews say nothing")
	}
	forbidden := []call{
		{"get", "secrets", namespace}, {"list", "secrets", namespace}, {"get", "secrets", sessionSpace}, {"list", "secrets", sessionSpace}, {"list", "secrets", ""},
		{"create", "pods", namespace}, {"delete", "pods", namespace}, {"create", "pods", "kube-system"}, {"list", "pods", ""},
		{"create", "pods/exec", sessionSpace}, {"get", "pods/exec", sessionSpace}, {"create", "pods/attach", sessionSpace}, {"create", "pods/portforward", sessionSpace},
		{"patch", "pods/ephemeralcontainers", sessionSpace}, {"get", "nodes", ""}, {"get", "nodes/proxy", ""}, {"list", "persistentvolumes", ""},
		{"create", "serviceaccounts/token", sessionSpace}, {"create", "serviceaccounts/token", namespace}, {"impersonate", "users", ""},
		{"create", "rbac.authorization.k8s.io:rolebindings", sessionSpace}, {"escalate", "rbac.authorization.k8s.io:roles", sessionSpace},
		{"delete", "networking.k8s.io:networkpolicies", sessionSpace}, {"patch", "namespaces", ""}, {"update", "apps:deployments", namespace},
	}
	for _, c := range forbidden {
		if may(manager, c) {
			t.Errorf("the manager of sessions may %s %s in %q", c.verb, c.resource, c.ns)
		}
	}
	for _, c := range append(forbidden, call{"get", "pods", sessionSpace}, call{"list", "pods", sessionSpace}, call{"create", "pods", sessionSpace},
		call{"delete", "pods", sessionSpace}, call{"list", "persistentvolumeclaims", sessionSpace}, call{"list", "events", sessionSpace}, call{"get", "configmaps", sessionSpace}) {
		if may(pod, c) {
			t.Errorf("a session's pod may %s %s in %q", c.verb, c.resource, c.ns)
		}
	}
}

// metadataAddress is where clouds tell machines who they are, credentials included.
const metadataAddress = "169.254.169.254"

// serveMetadata is such a service, which every node reaches.
func serveMetadata(t *testing.T) { serve(t, metadataAddress, 80) }

// serve has an address beyond the cluster, which every node reaches, answer on a port.
func serve(t *testing.T, address string, port int) {
	t.Helper()
	if out, err := exec.Command("ip", "addr", "replace", address+"/32", "dev", "nodes").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "node credentials") })}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
		_ = exec.Command("ip", "addr", "del", address+"/32", "dev", "nodes").Run()
	})
}

// reaches reports whether a program in a session gets a connection with a port.
func reaches(t *testing.T, c *yardtest.Client, session, host string, port int) bool {
	t.Helper()
	got := transcript(t, c, session, fmt.Sprintf("run /bin/busybox nc -w 5 %s %d </dev/null >/dev/null 2>&1 && echo reached-$((1+1)) || echo reached-$((1-1))", host, port))
	yes, no := strings.Contains(got, "reached-2"), strings.Contains(got, "reached-0")
	if yes == no {
		t.Fatalf("%s asks for %s:%d: %q", session, host, port, got)
	}
	return yes
}

// TestInsideSession looks around as an agent does, through the demo agent's shell.
func TestInsideSession(t *testing.T) {
	serveMetadata(t)
	boss := admin(t)
	mine := boss.Session(t, api.CreateSessionRequest{Agent: &api.Agent{Kind: "demo"}})
	other := boss.Session(t, api.CreateSessionRequest{Agent: &api.Agent{Kind: "demo"}})
	transcript(t, boss, other.ID, "write secret.txt\nother-session-secret")
	run := func(t *testing.T, command string) string {
		t.Helper()
		return transcript(t, boss, mine.ID, "run "+command)
	}

	t.Run("finds no credential", func(t *testing.T) {
		if got := run(t, "id -u; echo shell-$((40+2))"); !strings.Contains(got, "999") || !strings.Contains(got, "shell-42") {
			t.Fatalf("the shell does not work: %q", got)
		}
		for _, command := range []string{
			"env", "cat /proc/*/environ | tr '\\0' '\\n'", "cat /proc/*/cmdline | tr '\\0' ' '", "ls -laR /var/run /run",
			"cat /var/run/secrets/kubernetes.io/serviceaccount/*", "grep -rs 'NKEY[ ]SEED' /tmp /session /var /etc",
		} {
			got := run(t, command+" 2>&1; true")
			for _, secret := range []string{"BEGIN NATS", "NKEY SEED", "eyJ", "..data", "other-session-secret"} {
				if strings.Contains(got, secret) {
					t.Errorf("%q shows %q: %s", command, secret, got)
				}
			}
		}
		if got := run(t, "cat /proc/mounts"); !strings.Contains(got, "/session") || strings.Contains(got, "serviceaccount") {
			t.Errorf("what is mounted: %s", got)
		}
	})

	address := func(name string) string {
		pods := podsOf(t, namespace, part(name))
		if len(pods) == 0 {
			t.Fatalf("there is no %s", name)
		}
		return pods[0].Status.PodIP
	}
	reach := func(t *testing.T, host string, port int) bool { return reaches(t, boss, mine.ID, host, port) }
	t.Run("reaches the bus only, where nobody believes it", func(t *testing.T) {
		bus := address("nats")
		if !reach(t, bus, 4222) {
			t.Fatal("not even the bus")
		}
		got := run(t, fmt.Sprintf(`(printf 'CONNECT {"verbose":false}\r\nSUB > 1\r\nPING\r\n'; sleep 5) | /bin/busybox nc -w 20 %s 4222`, bus))
		if !strings.Contains(got, "Authorization Violation") || strings.Contains(got, "PONG") {
			t.Errorf("the bus answers a stranger %q", got)
		}
	})
	t.Run("reaches nothing else", func(t *testing.T) {
		server := strings.TrimPrefix(running.cluster.Server, "https://")
		host, port, err := net.SplitHostPort(server)
		if err != nil {
			t.Fatal(err)
		}
		number := 0
		if _, err := fmt.Sscan(port, &number); err != nil {
			t.Fatal(err)
		}
		for what, at := range map[string]struct {
			host string
			port int
		}{
			"the API server":              {host, number},
			"the API server's service":    {"10.96.0.1", 443},
			"the metadata address":        {metadataAddress, 80},
			"another session's runner":    {podOf(t, other.ID).Status.PodIP, 9000},
			"the gateway":                 {address("gateway"), 8080},
			"the gateway's metrics":       {address("gateway"), 9090},
			"the sessions service":        {address("sessions"), 9090},
			"Redis":                       {address("redis"), 6379},
			"the bus's monitoring":        {address("nats"), 8222},
			"its node's kubelet":          {podOf(t, mine.ID).Status.HostIP, 10250},
			"whoever started the cluster": {cluster.Gateway, number},
		} {
			if reach(t, at.host, at.port) {
				t.Errorf("%s (%s:%d) is reached", what, at.host, at.port)
			}
		}
	})
	t.Run("while its node reaches them", func(t *testing.T) { // so that the test above can fail
		pid := running.cluster.PID(mine.Node + "/kubelet")
		for _, at := range []string{metadataAddress + " 80", "10.96.0.1 443", podOf(t, other.ID).Status.PodIP + " 9000"} {
			if podOf(t, other.ID).Spec.NodeName != mine.Node && strings.Contains(at, "9000") {
				continue // what comes from another node is no probe of its own
			}
			args := append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", pid), busybox, "nc", "-w", "5"}, strings.Fields(at)...)
			if out, err := exec.CommandContext(t.Context(), "nsenter", args...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", at, err, out)
			}
		}
	})
	end(t, boss, mine.ID, other.ID)
}
