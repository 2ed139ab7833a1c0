//go:build cluster

package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
)

// TestPool: a session of a profile with a pool has a pod that waited for it, with no more rights than the chart gives; and a pool that cannot be filled says why.
func TestPool(t *testing.T) {
	boss := admin(t)
	free := func(profile string) (uids []string) {
		for _, p := range podsOf(t, sessionSpace, "agentyard.dev/pool=free,agentyard.dev/profile="+profile) {
			uids = append(uids, string(p.UID))
		}
		return uids
	}
	status := func(profile string) (st api.PoolStatus) {
		boss.Must(t, http.MethodGet, "/api/v1/profiles/"+profile+"/pool", nil, &st)
		return st
	}
	ready := api.Profile{Name: "ready", Agent: api.Agent{Kind: "demo"}, Pool: &api.Pool{Size: 2}}
	boss.Must(t, http.MethodPost, "/api/v1/profiles", ready, nil)
	full := func() bool { return status(ready.Name) == api.PoolStatus{Want: 2, Ready: 2} }
	eventually(t, "the pool is full", full)
	waited := free(ready.Name)

	s := boss.Session(t, api.CreateSessionRequest{Profile: ready.Name})
	t.Logf("it ran %s after it was created", s.StartedAt.Sub(s.CreatedAt))
	p := podOf(t, s.ID)
	restricted(t, p)
	if !slices.Contains(waited, string(p.UID)) {
		t.Errorf("its pod %s is not one of those that waited", p.Name)
	}
	if got := transcript(t, boss, s.ID, "echo from a pod that waited"); !strings.Contains(got, "from a pod that waited") {
		t.Errorf("it answers %q", got)
	}
	eventually(t, "another waits in its place", func() bool { return full() && !slices.Contains(free(ready.Name), string(p.UID)) })
	end(t, boss, s.ID)

	t.Run("one that cannot be filled says why", func(t *testing.T) {
		nowhere := api.Profile{Name: "nowhere", Agent: api.Agent{Kind: "demo"}, Pool: &api.Pool{Size: 1}, Pod: api.Pod{NodeSelector: map[string]string{"disk": "golden"}}}
		boss.Must(t, http.MethodPost, "/api/v1/profiles", nowhere, nil)
		var st api.PoolStatus
		defer func() {
			if t.Failed() {
				t.Logf("it says %+v", st)
			}
		}()
		eventually(t, "it says so", func() bool {
			st = status(nowhere.Name)
			return st.Ready == 0 && strings.Contains(st.Reason, "no node takes it: ") && strings.Contains(st.Reason, "selector")
		})
		boss.Must(t, http.MethodDelete, "/api/v1/profiles/"+nowhere.Name, nil, nil)
		eventually(t, "its pod goes with it", func() bool { return len(free(nowhere.Name)) == 0 })
	})
	boss.Must(t, http.MethodDelete, "/api/v1/profiles/"+ready.Name, nil, nil)
	eventually(t, "the pods go with the profile", func() bool { return len(free(ready.Name)) == 0 })
}
