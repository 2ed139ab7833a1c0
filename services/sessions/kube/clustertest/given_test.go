//go:build cluster

package clustertest_test

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions/kube/clustertest"
)

// signIn is an agent's file with two sign-ins, each with when it expires.
func signIn(a string, aExpires int, b string, bExpires int) string {
	return fmt.Sprintf(`{"one":{"token":"%s","expires":%d},"two":{"token":"%s","expires":%d}}`, a, aExpires, b, bExpires)
}

// TestGiven: secrets and files of credentials reach the agent in its pod, one that waited for the session too, and are in nothing that the cluster shows. What agents refresh at
// the same time comes back, and the owner's next session has all of it.
func TestGiven(t *testing.T) {
	t.Parallel()
	const file, value, old, soon, late = ".config/agent/auth.json", "value-of-the-secret", "original-token", 1_800_000_010, 1_800_000_100
	y := newYard(t, nil)
	if _, err := rpc.Call(y.admin, y.client, api.PutSecret, api.PutSecretRequest{Name: "deploy-key", Value: value}); err != nil {
		t.Fatal(err)
	}
	stored, err := rpc.Call(y.admin, y.client, api.PutCredential, api.PutCredentialRequest{File: file, Data: []byte(signIn(old, soon, old, soon))})
	if err != nil {
		t.Fatal(err)
	}
	y.profile(api.Profile{
		Name: "given", Agent: api.Agent{Kind: "demo"}, Pool: &api.Pool{Size: 1}, Credentials: &api.CredentialSync{Files: []string{file}},
		Secrets: []api.SecretRef{{Name: "deploy-key", Env: "DEPLOY_KEY", File: ".keys/deploy"}},
	})
	clustertest.Eventually(t, "a pod waits", func() bool {
		st, err := rpc.Call(y.admin, y.client, api.GetPool, api.NameRef{Name: "given"})
		return err == nil && st.Ready == 1
	})
	waited := waiting(t, y.kube, y.namespace)
	a, b := y.create("given"), y.create("given") // one takes the pod that waits
	for _, s := range []api.Session{a, b} {
		y.reaches(s.ID, api.StateRunning)
		got := y.ask(s.ID, `run echo "$DEPLOY_KEY"; cd $HOME; busybox stat -c %a,%u .keys/deploy; busybox cat .keys/deploy `+file)
		if strings.Count(got, value) != 2 || strings.Count(got, "600,999") != 1 || !strings.Contains(got, signIn(old, soon, old, soon)) {
			t.Errorf("%s was given %q", s.ID, got)
		}
	}
	if waited[string(y.pod(a.ID).UID)] == nil && waited[string(y.pod(b.ID).UID)] == nil {
		t.Error("no session has the pod that waited")
	}

	refresh := func(s api.Session, content string) {
		y.ask(s.ID, "run cd $HOME; printf '%s' '"+content+"' > new; busybox mv new "+file)
	}
	refresh(a, signIn("new-of-a", late, old, soon))
	refresh(b, signIn(old, soon, "new-of-b", late))
	clustertest.Eventually(t, "both have come back", func() bool {
		page, err := rpc.Call(y.admin, y.client, api.ListCredentials, api.List{})
		return err == nil && len(page.Items) == 1 && page.Items[0].Version >= stored.Version+2
	})
	c := y.create("given")
	y.reaches(c.ID, api.StateRunning)
	if got := y.ask(c.ID, "run busybox cat $HOME/"+file); !strings.Contains(got, signIn("new-of-a", late, "new-of-b", late)) {
		t.Errorf("the next session was given %q", got)
	}

	shown := y.shown()
	if !strings.Contains(shown, c.ID) {
		t.Error("the cluster shows nothing of the sessions: the search does not work")
	}
	for _, secret := range []string{value, old, "new-of-a"} {
		if strings.Contains(shown, secret) {
			t.Errorf("the cluster shows %q", secret)
		}
	}
	for _, s := range []api.Session{a, b, c} {
		y.end(s.ID)
	}
}

// shown returns everything that the namespace holds, as text.
func (y *yard) shown() string {
	y.t.Helper()
	var all strings.Builder
	for _, kind := range []string{"pods", "configmaps", "secrets", "events", "services", "persistentvolumeclaims"} {
		data, err := y.kube.CoreV1().RESTClient().Get().Namespace(y.namespace).Resource(kind).
			VersionedParams(&metav1.ListOptions{}, metav1.ParameterCodec).SetHeader("Accept", "application/json").DoRaw(y.t.Context())
		if err != nil {
			y.t.Fatalf("list %s: %v", kind, err)
		}
		all.Write(data)
	}
	return all.String()
}
