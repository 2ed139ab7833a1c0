package sessions_test

import (
	"context"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/launch"
)

// warmNode is a cluster that keeps pools, of runners that it only counts.
type warmNode struct {
	*node
	mu    sync.Mutex
	pools map[bus.Key]sessions.PoolSpec
}

func (w *warmNode) Identify(context.Context, string, api.RunnerBindRequest) (sessions.Placed, error) {
	return sessions.Placed{}, api.Errorf(api.CodeDenied, "runners here are told their launch at the start")
}

func (w *warmNode) Place(*launch.Launch) {}

func (w *warmNode) SetPool(_ context.Context, p sessions.PoolSpec) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := bus.Key{Tenant: p.Tenant, ID: p.Profile}
	if p.Want == 0 {
		delete(w.pools, key)
	} else {
		w.pools[key] = p
	}
	return nil
}

func (w *warmNode) Pools(context.Context) (list []sessions.PoolState, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pools {
		list = append(list, sessions.PoolState{Tenant: p.Tenant, Profile: p.Profile, Ready: p.Want - 1, Coming: 1, Reason: "no node takes it"})
	}
	return list, nil
}

func (w *warmNode) want(profile string) sessions.PoolSpec {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pools[bus.Key{Tenant: api.HomeTenant, ID: profile}]
}

func TestPool(t *testing.T) {
	t.Parallel()
	y := emptyYard(t, nil)
	reg := prometheus.NewRegistry()
	y.metrics = reg
	w := &warmNode{node: newCluster(y).join(), pools: map[bus.Key]sessions.PoolSpec{
		{Tenant: "gone", ID: "profile"}: {Tenant: "gone", Profile: "profile", Want: 3}, // a former leader's
	}}
	info := w.Info()
	info.Shared = true
	r := y.serve(w, info)
	t.Cleanup(func() { y.removeAll(); r.stop() })
	ana, boss := y.as("ana"), y.as("boss", api.RoleAdmin)
	profile := api.Profile{Name: "warm", Agent: api.Agent{Kind: "demo"}, Resources: api.Resources{CPUs: 2}, Pool: &api.Pool{Size: 2, Burst: 3}}
	y.profile(boss, profile)

	y.eventually("the pool is what the profile says, and nobody's is gone", func() bool {
		pools, err := w.Pools(t.Context())
		return err == nil && len(pools) == 1 && w.want("warm").Want == 2
	})
	if s := w.want("warm").Shape; s.Session != "" || s.Sandbox.Resources.CPUs != 2 || s.Pod.Profile != "warm" || len(s.Credentials) > 0 {
		t.Errorf("shape %+v", s)
	}
	for state, want := range map[string]float64{"wanted": 2, "ready": 1, "coming": 1} {
		y.eventually("the pool is counted", func() bool { return measured(t, reg, "agentyard_sessions_pool_runners", state) == want })
	}
	st, err := rpc.Call(ana, y.client, api.GetPool, api.NameRef{Name: "warm"})
	if err != nil || st != (api.PoolStatus{Want: 2, Ready: 1, Coming: 1, Reason: "no node takes it"}) {
		t.Errorf("%+v, %v", st, err)
	}
	for range 5 {
		y.create(ana, api.CreateSessionRequest{Profile: "warm"})
	}
	y.eventually("it bursts", func() bool { return w.want("warm").Want == 5 })
	profile.Pool = &api.Pool{Size: 1}
	if _, err := rpc.Call(boss, y.client, api.UpdateProfile, api.UpdateProfileRequest{Name: "warm", Profile: profile}); err != nil {
		t.Fatal(err)
	}
	y.eventually("it follows the profile", func() bool { return w.want("warm").Want == 1 })
	if _, err := rpc.Call(boss, y.client, api.DeleteProfile, api.NameRef{Name: "warm"}); err != nil {
		t.Fatal(err)
	}
	y.eventually("it goes with the profile", func() bool { return w.want("warm").Want == 0 })
	profile.Pool = &api.Pool{Size: -1, Timezone: "Mars/Olympus", Schedule: []api.PoolWindow{{From: "8am", To: "18:00", Days: []string{"someday"}}}}
	_, err = rpc.Call(boss, y.client, api.CreateProfile, profile)
	for _, field := range []string{"/pool/size", "/pool/timezone", "/pool/schedule/0/from", "/pool/schedule/0/days"} {
		wantCode(t, err, api.CodeInvalid, field)
	}
	profile.Pool = &api.Pool{Size: 1}
	profile.Pod.Volume = &api.Volume{Bytes: 16 << 20} // which a pod that runs cannot be given
	_, err = rpc.Call(boss, y.client, api.CreateProfile, profile)
	wantCode(t, err, api.CodeInvalid, "leave out pod.volume or the pool")
	t.Run("a runtime without pools says so", func(t *testing.T) {
		y := newYard(t, nil)
		_, err := rpc.Call(y.as("boss", api.RoleAdmin), y.client, api.CreateProfile, api.Profile{Name: "warm", Agent: api.Agent{Kind: "demo"}, Pool: &api.Pool{Size: 1}})
		wantCode(t, err, api.CodeInvalid, "keeps no pools")
	})
}
