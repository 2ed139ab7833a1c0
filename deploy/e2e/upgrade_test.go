//go:build cluster

package e2e

import (
	"context"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// TestUpgrade replaces every pod of every service, one after the other, while sessions work: they survive in the same pods.
func TestUpgrade(t *testing.T) {
	boss := admin(t)
	crowd := newCrowd(t, boss, 3)
	services := []string{"gateway", "auth", "sessions", "scheduler"}
	before := map[string]types.UID{}
	for _, s := range crowd.ids() {
		before[s] = podOf(t, s).UID
	}
	old := map[types.UID]bool{}
	for _, name := range services {
		for _, p := range podsOf(t, namespace, part(name)) {
			old[p.UID] = true
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), helmWithin)
	defer cancel()
	began := time.Now()
	if err := running.helm.upgrade(ctx, func(v map[string]any) {
		v["global"].(tree)["log"] = tree{"level": "debug"}
	}); err != nil {
		t.Fatalf("upgrade: %v", err)
	}
	t.Logf("the upgrade took %s", time.Since(began).Round(100*time.Millisecond))
	crowd.answered(t)
	for _, name := range services {
		pods := podsOf(t, namespace, part(name))
		if len(pods) == 0 {
			t.Errorf("there is no pod of %s", name)
		}
		for _, p := range pods {
			if old[p.UID] && p.DeletionTimestamp == nil {
				t.Errorf("%s was not replaced", p.Name)
			}
		}
	}
	crowd.check(t)
	for id, uid := range before {
		if podOf(t, id).UID != uid {
			t.Errorf("%s has another pod", id)
		}
	}
	end(t, boss, crowd.ids()...)
}
