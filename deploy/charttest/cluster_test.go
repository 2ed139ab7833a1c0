//go:build cluster

package charttest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"agentyard.dev/deploy/cluster"
)

// kubernetes is a control plane of its own.
type kubernetes struct{ *cluster.Cluster }

func startKubernetes(t *testing.T) *kubernetes {
	t.Helper()
	c, err := cluster.Start(t.Context(), cluster.Config{Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return &kubernetes{c}
}

// kubectl runs kubectl with text on standard input and returns what it prints.
func (k *kubernetes) kubectl(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.Kubectl[0], append(slices.Clone(k.Kubectl[1:]), args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+k.Kubeconfig)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func (k *kubernetes) must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := k.kubectl(t, stdin, args...)
	if err != nil {
		t.Fatalf("kubectl %q: %v\n%s", args, err, out)
	}
	return out
}

// The API server takes every object of every arrangement, knows each of its fields, and has nothing to say about the security of the pods.
func TestServerSideDryRun(t *testing.T) {
	k := startKubernetes(t)
	k.define(t)
	for _, ns := range []string{"yard", "agentyard-sessions"} {
		k.must(t, "", "create", "namespace", ns)
		k.must(t, "", "label", "namespace", ns, "pod-security.kubernetes.io/warn=restricted", "pod-security.kubernetes.io/enforce=restricted")
	}
	for _, ns := range []string{"team-a", "team-b"} {
		k.must(t, "", "create", "namespace", ns)
	}
	for _, account := range []string{"agentyard-check"} { // a pod's must exist; a dry run makes none
		k.must(t, "", "create", "serviceaccount", account, "-n", "yard")
	}
	for _, a := range arrangements {
		t.Run(a.name, func(t *testing.T) {
			objects := a.objects(t)
			out, err := k.kubectl(t, string(Manifest(objects)), "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if n := strings.Count(out, "(server dry run)"); n != len(objects) || strings.Contains(out, "Warning") && !slices.Equal(warned(out), nodeAgent) {
				t.Errorf("%d of %d objects were taken:\n%s", n, len(objects), out)
			}
		})
	}
	t.Run("and finds mistakes", func(t *testing.T) {
		for mistake, object := range map[string]string{
			"selektor":    `{apiVersion: v1, kind: Service, metadata: {name: x, namespace: yard}, spec: {ports: [{port: 80}], selektor: {a: b}}}`,
			"intervall":   `{apiVersion: monitoring.coreos.com/v1, kind: PodMonitor, metadata: {name: x, namespace: yard}, spec: {selector: {}, podMetricsEndpoints: [{intervall: 15s}]}}`,
			"issuerRef":   `{apiVersion: cert-manager.io/v1, kind: Certificate, metadata: {name: x, namespace: yard}, spec: {secretName: x, dnsNames: [x.example]}}`,
			"parentReffs": `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: x, namespace: yard}, spec: {parentReffs: [{name: x}]}}`,
		} {
			out, err := k.kubectl(t, object, "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
			if err == nil || !strings.Contains(out, mistake) {
				t.Errorf("%s: got %v: %s", mistake, err, out)
			}
		}
	})
}

// What the accounts of the charts may do, as the API server decides it, and what they may not.
func TestRightsOnTheServer(t *testing.T) {
	k := startKubernetes(t)
	k.must(t, "", "create", "namespace", "yard")
	var rights []Object
	for _, o := range (arrangement{name: "rights", chart: "agentyard", files: []string{"values-ha.yaml"}}).objects(t) {
		switch o.Kind() {
		case "Namespace":
			k.must(t, o.Text, "apply", "--server-side", "-f", "-")
		case "Role", "RoleBinding", "ServiceAccount":
			rights = append(rights, o)
		}
	}
	k.must(t, string(Manifest(rights)), "apply", "--server-side", "-f", "-")
	for _, c := range []struct {
		account, namespace string
		may, mayNot        []string
	}{
		{"agentyard-sessions", "agentyard-sessions",
			[]string{"get pods", "list pods", "watch pods", "create pods", "patch pods", "delete pods", "list persistentvolumeclaims", "watch persistentvolumeclaims",
				"create persistentvolumeclaims", "patch persistentvolumeclaims", "delete persistentvolumeclaims", "list events",
				"create configmaps", "create services", "patch services", "create networkpolicies"},
			[]string{"create pods/exec", "create pods/attach", "create pods/portforward", "create pods/ephemeralcontainers", "deletecollection pods",
				"get secrets", "list secrets", "create secrets", "create serviceaccounts/token", "create rolebindings", "delete networkpolicies", "patch networkpolicies", "update networkpolicies", "list networkpolicies",
				"get configmaps", "list configmaps", "delete configmaps", "delete services", "bind roles", "impersonate users"}},
		{"agentyard-sessions", "yard", nil,
			[]string{"get pods", "create pods", "delete pods", "get secrets", "list secrets", "get secrets/agentyard-keyring", "create serviceaccounts/token", "get configmaps"}},
		{"agentyard-keys", "yard",
			[]string{"create secrets", "get secrets/agentyard-keyring", "update secrets/agentyard-auth-bus"},
			[]string{"list secrets", "watch secrets", "get secrets/other", "update secrets/other", "delete secrets/agentyard-keyring", "create pods", "create rolebindings"}},
		{"agentyard-gateway", "yard", nil, []string{"get secrets", "list pods", "get configmaps", "create pods"}},
		{"agentyard-auth", "yard", nil, []string{"get secrets", "list pods", "get secrets/agentyard-auth"}},
		{"agentyard-scheduler", "yard", nil, []string{"get secrets", "list pods"}},
	} {
		for want, calls := range map[string][]string{"yes": c.may, "no": c.mayNot} {
			for _, call := range calls {
				verb, resource, _ := strings.Cut(call, " ")
				args := []string{"auth", "can-i", verb, resource, "-n", c.namespace, "--as", "system:serviceaccount:yard:" + c.account}
				if kind, sub, ok := strings.Cut(resource, "/"); ok && (kind == "pods" || sub == "token") {
					args = append(slices.Clone(args[:3]), append([]string{kind, "--subresource", sub}, args[4:]...)...)
				}
				out, _ := k.kubectl(t, "", args...) // its exit status says the same as its words
				if got := lastWord(out); got != want {
					t.Errorf("%s in %s: %s: the server says %q, want %q", c.account, c.namespace, call, strings.TrimSpace(out), want)
				}
			}
		}
	}
	// The account of sessions' pods may do nothing anywhere, and their namespace takes restricted pods only.
	out := k.must(t, "", "auth", "can-i", "--list", "-n", "agentyard-sessions", "--as", "system:serviceaccount:agentyard-sessions:agentyard-session", "--no-headers")
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "selfsubject") && !strings.HasPrefix(line, " ") {
			t.Errorf("sessions' pods may: %s", line)
		}
	}
	privileged := `{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: agentyard-sessions}, spec: {containers: [{name: x, image: x, securityContext: {privileged: true}}]}}`
	if out, err := k.kubectl(t, privileged, "apply", "--server-side", "--dry-run=server", "-f", "-"); err == nil || !strings.Contains(out, "violates PodSecurity") {
		t.Errorf("a privileged pod among the sessions: %v: %s", err, out)
	}
}

// nodeAgent is what the API server has to say about the node agent's privileges (TestNodeAgent), and about nothing else.
var nodeAgent = []string{"agentyard-tcagent"}

// warned returns the names of the objects after whose warning they were taken.
func warned(out string) (names []string) {
	warning := false
	for line := range strings.Lines(out) {
		switch {
		case strings.HasPrefix(line, "Warning: would violate PodSecurity"):
			warning = true
		case warning:
			_, name, _ := strings.Cut(strings.Fields(line)[0], "/")
			names, warning = append(names, name), false
		}
	}
	return names
}

func lastWord(s string) string {
	fields := strings.Fields(s)
	if len(fields) == 0 {
		return ""
	}
	return fields[len(fields)-1]
}
