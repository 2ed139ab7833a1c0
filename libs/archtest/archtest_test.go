package archtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// workspace returns the repository's root: the nearest directory above with a go.work.
func workspace(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("there is no go.work above this package")
		}
		dir = parent
	}
}

func TestRules(t *testing.T) {
	tree, err := load(workspace(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.files) < 50 {
		t.Fatalf("only %d files were found", len(tree.files))
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, violation := range r.check(tree) {
				t.Error(violation)
			}
		})
	}
}

// TestRulesFindViolations shows each rule failing, on a tree that breaks each of them, and that they leave alone what is right.
func TestRulesFindViolations(t *testing.T) {
	tree, err := load(filepath.Join("testdata", "bad"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"libs/api imports the standard library only": {
			"libs/api/api.go:7: github.com/google/uuid",
			"libs/api/api_test.go:7: agentyard.dev/libs/bus",
		},
		"libs never import services": {
			"libs/bus/bus.go:8: agentyard.dev/services/auth",
		},
		"services never import each other": {
			"services/auth/auth.go:12: agentyard.dev/services/gateway",
			"services/auth/auth_test.go:3: agentyard.dev/services/gateway",
		},
		"each third-party package has one home": {
			"libs/api/api.go:7: github.com/google/uuid has no home",
			"services/auth/auth.go:5: github.com/nats-io/nats.go lives in libs/bus, libs/rpc",
			"services/auth/auth.go:6: github.com/nats-iota/other has no home",
			"services/auth/auth.go:7: go.opentelemetry.io/otel/sdk/trace lives in libs/daemon",
		},
		"no package has a vague name": {
			`libs/clock/clock.go: "types"`,
			`libs/clock/clock_test.go: "types"`,
			`libs/clock/generated.go: "types"`,
			`libs/clock/long.go: "types"`,
			`libs/clock/longest.go: "types"`,
			`libs/clock/sleep.go: "types"`,
			`libs/helpers: "helpers"`,
		},
		"no hand-written file is over 500 lines": {
			"libs/clock/long.go: 501 lines",
		},
		"every package has a doc comment": {
			"services/auth/store: ",
		},
		"tests do not sleep": {
			"libs/clock/clock_test.go:15: ",
			"libs/clock/clocktest/clocktest.go:9: ",
		},
		"skipped tests say why": {
			"libs/clock/clock_test.go:18: Skip without",
			"libs/clock/clock_test.go:19: Skip without",
			"libs/clock/clock_test.go:20: Skipf without",
			"libs/clock/clock_test.go:21: SkipNow",
		},
		"every service is a process": {
			"services/gateway/cmd/gateway/main.go: ",
			"services/scheduler/cmd/scheduler/main.go: ",
		},
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			got := r.check(tree)
			slices.Sort(got)
			if len(want[r.name]) == 0 {
				t.Fatal("nothing shows this rule failing")
			}
			if !slices.EqualFunc(got, want[r.name], strings.HasPrefix) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want[r.name], "\n  "))
			}
		})
	}
}

// kubernetes is what the node agent must not link: it runs on nodes without Kubernetes, and small.
var kubernetes = []string{"k8s.io", "sigs.k8s.io"}

// links returns the packages below one of prefixes that a command links, as the go command sees it for Linux.
func links(ctx context.Context, dir, command string, env, prefixes []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", command)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0"), env...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w\n%s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go list -deps %s in %s: %w", command, dir, err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "runtime") {
		return nil, fmt.Errorf("go list -deps %s in %s lists no command's packages: %s", command, dir, out)
	}
	return slices.DeleteFunc(deps, func(p string) bool {
		return !slices.ContainsFunc(prefixes, func(prefix string) bool { return within(p, prefix) })
	}), nil
}

func TestNodeAgentLinksNoKubernetesClient(t *testing.T) {
	found, err := links(t.Context(), filepath.Join(workspace(t), "services", "tcagent"), "./cmd/tcagent", nil, kubernetes)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range found {
		if within(p, "k8s.io/cri-api") {
			continue // the messages of the container runtime's socket, and no client of a cluster
		}
		t.Errorf("cmd/tcagent links %s; keep it in the controller", p)
	}

	t.Run("nor what runs on one machine or inside a session", func(t *testing.T) {
		for service, command := range map[string]string{"standalone": "./cmd/agentyard", "sessions": "./cmd/runner"} {
			found, err := links(t.Context(), filepath.Join(workspace(t), "services", service), command, nil, kubernetes)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range found {
				t.Errorf("%s of %s links %s; keep it in services/sessions/kube", command, service, p)
			}
		}
	})

	t.Run("and would be seen to", func(t *testing.T) {
		env := []string{"GOWORK=off", "GOPROXY=off", "GOFLAGS=-mod=mod"}
		found, err := links(t.Context(), filepath.Join("testdata", "links"), ".", env, kubernetes)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(found, []string{"k8s.io/client-go/kubernetes"}) {
			t.Errorf("got %q", found)
		}
	})
}
