//go:build cluster

package clustertest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/kube/clustertest"
	"agentyard.dev/services/sessions/kube/declare"
)

// golden is what the charts render, with the definitions and the rights of declarations in the namespaces team-a and team-b.
const golden = "../../../../deploy/charttest/testdata/agentyard-everything.yaml"

// kubectl runs the cluster's own kubectl with text on standard input.
func kubectl(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*patience) // cleanups use it too
	defer cancel()
	argv := append(slices.Clone(clustertest.Cluster().Kubectl), args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+clustertest.Cluster().Kubeconfig)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := kubectl(t, stdin, args...)
	if err != nil {
		t.Fatalf("kubectl %q: %v\n%s", args, err, out)
	}
	return out
}

// definitions installs what the charts render of declarations.
func definitions(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	var crds, roles []string
	for _, doc := range strings.Split(string(text), "\n---") {
		switch {
		case strings.Contains(doc, "\nkind: CustomResourceDefinition"):
			crds = append(crds, doc)
		case strings.Contains(doc, "/sessions/templates/declarationroles.yaml"):
			roles = append(roles, doc)
		}
	}
	if len(crds) != 2 || len(roles) != 4 {
		t.Fatalf("%d definitions and %d roles", len(crds), len(roles))
	}
	for _, namespace := range []string{"team-a", "team-b", "team-c"} {
		must(t, "", "create", "namespace", namespace)
	}
	must(t, strings.Join(append(crds, roles...), "\n---"), "apply", "--server-side", "-f", "-")
	must(t, "", "wait", "--for=condition=Established", "--timeout=5m", "crd/sessions.agentyard.dev", "crd/sessionprofiles.agentyard.dev")
	t.Cleanup(func() {
		for _, namespace := range []string{"team-a", "team-b", "team-c"} {
			if out, err := kubectl(t, "", "delete", "namespace", namespace, "--wait=false"); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	})
}

// declaredObject is what a test reads of an object.
type declaredObject struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Status   struct {
		Phase, Reason, ID, URL, Node, StartedAt string
		ObservedGeneration, Revision            int64
		Conditions                              []metav1.Condition
	} `json:"status"`
}

func (o declaredObject) condition(kind string) metav1.Condition {
	for _, c := range o.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return metav1.Condition{}
}

func read(t *testing.T, namespace, object string) (o declaredObject, there bool) {
	t.Helper()
	out, err := kubectl(t, "", "get", object, "-n", namespace, "-o", "json")
	if err != nil {
		if !strings.Contains(out, "NotFound") {
			t.Fatalf("%v: %s", err, out)
		}
		return o, false
	}
	if err := json.Unmarshal([]byte(out), &o); err != nil {
		t.Fatal(err)
	}
	return o, true
}

// shows waits until an object says what is expected.
func shows(t *testing.T, namespace, object, what string, ok func(declaredObject) bool) declaredObject {
	t.Helper()
	var o declaredObject
	deadline := time.After(2 * patience)
	for {
		var there bool
		if o, there = read(t, namespace, object); there && ok(o) {
			return o
		}
		select {
		case <-deadline:
			t.Fatalf("waited in vain: %s %s: %s: %+v", namespace, object, what, o.Status)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func yaml(kind, namespace, name, spec string) string {
	return "---\n{apiVersion: agentyard.dev/v1alpha1, kind: " + kind + ", metadata: {name: " + name + ", namespace: " + namespace + "}, spec: " + spec + "}\n"
}

// TestDeclarations: an object that somebody applies is a session, in the name of the user to whom its namespace was given and of nobody else.
func TestDeclarations(t *testing.T) {
	t.Parallel()
	definitions(t)
	ann, bob := api.DeriveID(api.KindUser, "ann"), api.DeriveID(api.KindUser, "bob")
	as := clustertest.Config(t) // with the rights that the chart gives
	as.Impersonate.UserName = "system:serviceaccount:yard:agentyard-sessions"
	c, err := declare.New(declare.Config{
		Namespaces: "team-a=" + api.HomeTenant + "/" + ann + ",team-b=other/" + bob, URL: "https://yard.example.com/",
	}, as, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	y := newYard(t, nil, func(d *sessions.Deps) { d.Declarations = c })
	conn := bustest.Connect(t, y.srv, y.ring, "auth")
	for noun, records := range map[string]map[bus.Key]map[string]any{
		"tenants": {{Tenant: api.HomeTenant, ID: api.HomeTenant}: {}, {Tenant: "other", ID: "other"}: {}},
		"users": {
			{Tenant: api.HomeTenant, ID: ann}: {"name": "ann", "roles": []api.Role{api.RoleAdmin}},
			{Tenant: "other", ID: bob}:        {"name": "bob", "roles": []api.Role{api.RoleService}},
		},
	} {
		l, err := bus.OpenLedger[map[string]any](t.Context(), conn, bus.LedgerConfig{Noun: noun})
		if err != nil {
			t.Fatal(err)
		}
		for key, state := range records {
			if _, err := l.Create(t.Context(), key, bus.Meta{Actor: "test", Verb: "create"}, state); err != nil {
				t.Fatal(err)
			}
		}
	}

	must(t, yaml("SessionProfile", "team-a", "small", "{agent: {kind: demo}, resources: {cpus: 0.5}, idleTimeout: 30m}")+
		yaml("Session", "team-a", "build", `{profile: small, title: One, prompt: "echo hello", labels: {team: red}}`)+
		yaml("Session", "team-b", "theirs", "{}")+
		yaml("Session", "team-b", "borrowed", "{profile: small}")+
		yaml("SessionProfile", "team-b", "own", "{agent: {kind: demo}}")+
		yaml("Session", "team-c", "nobodys", "{}"), "apply", "-f", "-")
	running := shows(t, "team-a", "session.agentyard.dev/build", "it runs", func(o declaredObject) bool { return o.Status.Phase == "running" })

	t.Run("is a session, and shows it", func(t *testing.T) {
		s := y.get(running.Status.ID)
		if s.State != api.StateRunning || s.Owner != ann || s.Profile != "small" || s.Title != "One" || s.IdleTimeout.D() != 30*time.Minute {
			t.Errorf("%+v", s)
		}
		st := running.Status
		if st.URL != "https://yard.example.com/api/v1/sessions/"+s.ID || st.Node != s.Node || st.Node == "" || st.StartedAt == "" || st.ObservedGeneration != running.Metadata.Generation {
			t.Errorf("%+v", st)
		}
		if a, r := running.condition("Accepted"), running.condition("Ready"); a.Status != "True" || r.Status != "True" || r.Reason != "Running" {
			t.Errorf("%+v", st.Conditions)
		}
		if out := must(t, "", "get", "sessions.agentyard.dev", "build", "-n", "team-a"); !strings.Contains(out, "PHASE") || !strings.Contains(out, "running") || !strings.Contains(out, s.ID) {
			t.Errorf("printed\n%s", out)
		}
		if got := y.ask(s.ID, "echo hello again"); !strings.Contains(got, "hello again") {
			t.Errorf("answered %q", got)
		}
		profile := shows(t, "team-a", "sessionprofile/small", "it is accepted", func(o declaredObject) bool { return o.condition("Accepted").Status == "True" })
		if profile.Status.Revision == 0 {
			t.Errorf("%+v", profile.Status)
		}
	})
	t.Run("follows what may change", func(t *testing.T) {
		must(t, `{"spec": {"title": "Two", "ttl": "2h"}}`, "patch", "session.agentyard.dev", "build", "-n", "team-a", "--type=merge", "--patch-file=/dev/stdin")
		shows(t, "team-a", "session.agentyard.dev/build", "it was seen", func(o declaredObject) bool {
			return o.Metadata.Generation > running.Metadata.Generation && o.Status.ObservedGeneration == o.Metadata.Generation
		})
		if s := y.get(running.Status.ID); s.Title != "Two" || s.TTL.D() != 2*time.Hour {
			t.Errorf("%+v", s)
		}
		must(t, `{"spec": {"description": "changed"}}`, "patch", "sessionprofile", "small", "-n", "team-a", "--type=merge", "--patch-file=/dev/stdin")
		clustertest.Eventually(t, "the profile follows", func() bool {
			p, err := rpc.Call(y.admin, y.client, api.GetProfile, api.NameRef{Name: "small"})
			return err == nil && p.Description == "changed"
		})
	})
	t.Run("a namespace reaches its own tenant only", func(t *testing.T) {
		theirs := shows(t, "team-b", "session.agentyard.dev/theirs", "it runs", func(o declaredObject) bool { return o.Status.Phase == "running" })
		if _, err := rpc.Call(y.admin, y.client, api.GetSession, api.SessionRef{ID: theirs.Status.ID}); api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("the other tenant's session is there for ours: %v", err)
		}
		borrowed := shows(t, "team-b", "session.agentyard.dev/borrowed", "it is refused", func(o declaredObject) bool { return o.condition("Accepted").Status == "False" })
		if c := borrowed.condition("Accepted"); c.Reason != "Invalid" || !strings.Contains(borrowed.Status.Reason, "no profile") || borrowed.Status.ID != "" {
			t.Errorf("%+v", borrowed.Status)
		}
		own := shows(t, "team-b", "sessionprofile/own", "it is refused", func(o declaredObject) bool { return o.condition("Accepted").Status == "False" })
		if c := own.condition("Accepted"); c.Reason != "Denied" || !strings.Contains(c.Message, "profile:write") {
			t.Errorf("%+v", own.Status)
		}
		if nobodys, _ := read(t, "team-c", "session.agentyard.dev/nobodys"); len(nobodys.Metadata.Finalizers) > 0 || len(nobodys.Status.Conditions) > 0 {
			t.Errorf("an object of a namespace that is nobody's was followed: %+v", nobodys)
		}
		// Who may write the status names another's session, and gains nothing.
		must(t, `{"status": {"id": "`+running.Status.ID+`"}}`, "patch", "session.agentyard.dev", "borrowed", "-n", "team-b", "--subresource=status", "--type=merge", "--patch-file=/dev/stdin")
		must(t, "", "delete", "session.agentyard.dev", "borrowed", "-n", "team-b", "--timeout=5m")
		if s := y.get(running.Status.ID); s.State != api.StateRunning {
			t.Errorf("another's session is %s", s.State)
		}
	})
	t.Run("shows that the session was deleted by the API", func(t *testing.T) {
		if _, err := rpc.Call(y.admin, y.client, api.DeleteSession, api.SessionRef{ID: running.Status.ID}); err != nil {
			t.Fatal(err)
		}
		o := shows(t, "team-a", "session.agentyard.dev/build", "it has ended", func(o declaredObject) bool { return o.Status.Phase == "terminated" })
		if o.condition("Ready").Status != "False" || o.condition("Ready").Reason != "Terminated" || o.Status.ID != running.Status.ID {
			t.Errorf("%+v", o.Status)
		}
		must(t, "", "delete", "session.agentyard.dev", "build", "-n", "team-a", "--timeout=5m")
	})
	t.Run("ends with its object", func(t *testing.T) {
		must(t, yaml("Session", "team-a", "brief", "{}"), "apply", "-f", "-")
		o := shows(t, "team-a", "session.agentyard.dev/brief", "it runs", func(o declaredObject) bool { return o.Status.Phase == "running" })
		must(t, "", "delete", "session.agentyard.dev", "brief", "-n", "team-a", "--timeout=5m")
		if s := y.get(o.Status.ID); s.State != api.StateTerminated {
			t.Errorf("the object is gone and its session is %s", s.State)
		}
		pods, err := y.kube.CoreV1().Pods(y.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "agentyard.dev/session=" + o.Status.ID})
		if err != nil || len(pods.Items) != 0 {
			t.Errorf("%d pods are left, %v", len(pods.Items), err)
		}
		must(t, yaml("Session", "team-a", "brief", "{}"), "apply", "-f", "-")
		again := shows(t, "team-a", "session.agentyard.dev/brief", "there is another", func(o declaredObject) bool { return o.Status.ID != "" })
		if again.Status.ID == o.Status.ID {
			t.Error("a new object has the session of the one before")
		}
	})
	t.Run("nothing is left", func(t *testing.T) {
		for _, namespace := range []string{"team-a", "team-b", "team-c"} {
			must(t, "", "delete", "sessions.agentyard.dev,sessionprofiles.agentyard.dev", "--all", "-n", namespace, "--timeout=5m")
		}
		if _, err := rpc.Call(y.admin, y.client, api.GetProfile, api.NameRef{Name: "small"}); api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("the profile is still there: %v", err)
		}
	})
}
