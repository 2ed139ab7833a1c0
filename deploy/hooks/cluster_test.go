//go:build cluster

package main

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	kubernetes "agentyard.dev/deploy/cluster"
)

// The keys job, with the rights that the chart gives it and no others, against a real API server.
func TestKeysOnTheServer(t *testing.T) {
	k, err := kubernetes.Start(t.Context(), kubernetes.Config{Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Stop)
	kubectl := func(stdin string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, k.Kubectl[0], append(slices.Clone(k.Kubectl[1:]), args...)...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+k.Kubeconfig)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	kubectl("", "create", "namespace", "yard")
	manifest, err := os.ReadFile(filepath.Join("..", "charttest", "testdata", "agentyard.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	applied := 0
	for _, object := range strings.Split(string(manifest), "\n---\n") {
		if strings.Contains(object, "agentyard/templates/keys.yaml") && regexp.MustCompile(`(?m)^kind: (ServiceAccount|Role|RoleBinding)$`).MatchString(object) {
			kubectl(object, "apply", "--server-side", "-f", "-")
			applied++
		}
	}
	if applied != 3 {
		t.Fatalf("the chart gives the job %d objects for its rights", applied)
	}
	token := strings.TrimSpace(kubectl("", "create", "token", "agentyard-keys", "-n", "yard"))
	ca := kubectl("", "get", "configmap", "kube-root-ca.crt", "-n", "yard", "-o", `jsonpath={.data.ca\.crt}`)
	job, err := newCluster(k.Server, token, "yard", []byte(ca))
	if err != nil {
		t.Fatal(err)
	}

	quiet, y := slog.New(slog.DiscardHandler), yard{name: "agentyard", servers: 3}
	versions := func() map[string]string {
		t.Helper()
		all := map[string]string{}
		for _, name := range y.secrets() {
			s, err := job.get(t.Context(), name)
			if err != nil || s == nil {
				t.Fatalf("%s: %v, %v", name, s, err)
			}
			all[name] = s.Version
		}
		return all
	}
	changed := func(before, after map[string]string) (names []string) {
		for name, v := range after {
			if before[name] != v {
				names = append(names, strings.TrimPrefix(name, "agentyard-"))
			}
		}
		slices.Sort(names)
		return names
	}
	// Two at once, as when an installation is repeated while the first still runs.
	ended := make(chan error, 2)
	for range 2 {
		go func() { ended <- job.makeKeys(t.Context(), y, quiet) }()
	}
	for range 2 {
		if err := <-ended; err != nil && !strings.Contains(err.Error(), "409") { // the loser of a replacement; the job is repeated
			t.Fatal(err)
		}
	}
	if err := job.makeKeys(t.Context(), y, quiet); err != nil {
		t.Fatal(err)
	}
	first := versions()
	if err := job.makeKeys(t.Context(), y, quiet); err != nil {
		t.Fatal(err)
	}
	if got := changed(first, versions()); len(got) > 0 && !slices.Equal(got, []string{"nats-trust"}) { // signed in the same second, it is the same
		t.Errorf("a further run writes %q", got)
	}
	y.generation = 1
	if err := job.makeKeys(t.Context(), y, quiet); err != nil {
		t.Fatal(err)
	}
	renewed := []string{"auth-bus", "gateway-bus", "nats-trust", "scheduler-bus", "scheduler-secrets", "sessions-bus", "sessions-secrets", "tcagent-bus", "tcnode-bus"}
	if got := changed(first, versions()); !slices.Equal(got, renewed) { // not the keyring: what it holds is derived
		t.Errorf("a rotation writes %q, want %q", got, renewed)
	}

	for what, call := range map[string]func() error{
		"read another Secret": func() error { _, err := job.get(t.Context(), "others"); return err },
		"replace another Secret": func() error {
			_, err := job.put(t.Context(), secret{Name: "others", Version: "1"})
			return err
		},
		"list all": func() error { _, err := job.get(t.Context(), ""); return err },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("the job may %s: %v", what, err)
		}
	}
}
