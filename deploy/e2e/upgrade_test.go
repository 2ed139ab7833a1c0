//go:build cluster

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"k8s.io/apimachinery/pkg/types"

	"agentyard.dev/libs/api"
)

// TestUpgrade goes back to the release before this one, charts and images, and forth again, while sessions work: every pod of every service is
// replaced twice, and the sessions survive in the same pods.
func TestUpgrade(t *testing.T) {
	if running.past == nil {
		t.Skip(errNoHistory)
	}
	before, err := loader.LoadDir(running.past.chart)
	if err != nil {
		t.Fatal(err)
	}
	boss := admin(t)
	crowd := newCrowd(t, boss, 3)
	pods := map[string]types.UID{}
	for _, s := range crowd.ids() {
		pods[s] = podOf(t, s).UID
	}
	var made api.Session // by the other release
	for _, step := range []struct {
		name  string
		chart *chart.Chart
		tag   string
	}{{"back to " + running.past.commit, before, running.past.commit}, {"forth", running.helm.chart, running.tag}} {
		if !t.Run(step.name, func(t *testing.T) {
			replaceAll(t, step.chart, step.tag)
			crowd.answered(t)
			if made.ID == "" {
				made = boss.Session(t, api.CreateSessionRequest{Profile: profile})
				transcript(t, boss, made.ID, "write kept.txt\nover an upgrade")
			}
			if answer := transcript(t, boss, made.ID, "read kept.txt"); !strings.Contains(answer, "over an upgrade") {
				t.Errorf("the session of the other release answers %q", answer)
			}
		}) {
			t.FailNow()
		}
	}
	crowd.check(t)
	for id, uid := range pods {
		if podOf(t, id).UID != uid {
			t.Errorf("%s has another pod", id)
		}
	}
	end(t, boss, append(crowd.ids(), made.ID)...)
}

// replaceAll upgrades to a release and checks that nothing of the last one runs.
func replaceAll(t *testing.T, to *chart.Chart, tag string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), helmWithin)
	defer cancel()
	began := time.Now()
	if err := running.helm.upgrade(ctx, to, tag); err != nil {
		t.Fatalf("upgrade: %v", err)
	}
	t.Logf("the upgrade took %s", time.Since(began).Round(100*time.Millisecond))
	for _, name := range []string{"gateway", "auth", "sessions", "scheduler"} {
		pods := podsOf(t, namespace, part(name))
		if len(pods) == 0 {
			t.Errorf("there is no pod of %s", name)
		}
		for _, p := range pods {
			if image := p.Spec.Containers[0].Image; !strings.HasSuffix(image, ":"+tag) && p.DeletionTimestamp == nil {
				t.Errorf("%s still runs %s", p.Name, image)
			}
		}
	}
}
