//go:build cluster

package clustertest_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/kube"
	"agentyard.dev/services/sessions/kube/clustertest"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/runtimetest"
)

// waiting returns the pods of pools that no session has, by UID.
func waiting(t *testing.T, client kubernetes.Interface, namespace string) map[string]*corev1.Pod {
	t.Helper()
	list, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "agentyard.dev/pool=free"})
	if err != nil {
		t.Fatal(err)
	}
	pods := map[string]*corev1.Pod{}
	for i, p := range list.Items {
		if p.DeletionTimestamp == nil {
			pods[string(p.UID)] = &list.Items[i]
		}
	}
	return pods
}

// TestPool: a session of a profile with a pool has a pod that was there before it.
func TestPool(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	profile := api.Profile{Name: "warm", Agent: api.Agent{Kind: "demo"}, Pool: &api.Pool{Size: 2}, Pod: api.Pod{Labels: map[string]string{"team": "red"}}}
	y.profile(profile)
	pool := func() api.PoolStatus {
		st, err := rpc.Call(y.admin, y.client, api.GetPool, api.NameRef{Name: "warm"})
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	full := func(n int) func() bool { return func() bool { return pool() == api.PoolStatus{Want: n, Ready: n} } }
	clustertest.Eventually(t, "the pool is full", full(2))
	before := waiting(t, y.kube, y.namespace)
	for _, p := range before {
		if p.Labels["agentyard.dev/session"] != "" || p.Labels["agentyard.dev/tenant"] != api.HomeTenant || p.Labels["user.agentyard.dev/team"] != "red" {
			t.Errorf("labels %v", p.Labels)
		}
	}

	wrote := len(y.calls.changes())
	s := y.create("warm")
	s = y.reaches(s.ID, api.StateRunning)
	t.Logf("from created to running: %s", s.StartedAt.Sub(s.CreatedAt))
	p := y.pod(s.ID)
	if before[string(p.UID)] == nil || p.Labels["agentyard.dev/incarnation"] != "1" {
		t.Errorf("its pod %s is not one of the pool's, or has labels %v", p.Name, p.Labels)
	}
	if len(p.ManagedFields) != 0 {
		t.Errorf("the API server still keeps account of its fields: %v", p.ManagedFields)
	}
	if got := y.ask(s.ID, "echo hello from a warm pod"); !strings.Contains(got, "hello from a warm pod") {
		t.Errorf("answered %q", got)
	}
	t.Run("its bootstrap credential is of no use any more", func(t *testing.T) { y.spent(t, s.ID) })
	clustertest.Eventually(t, "the pool is full again", full(2))
	writes := y.calls.changes()[wrote:]
	if len(writes) != 2 || !strings.HasPrefix(writes[0], "PATCH ") || !strings.HasPrefix(writes[1], "POST ") {
		t.Errorf("a warm start made %d changes in the cluster, not a claim and the next pod: %q", len(writes), writes)
	}
	y.end(s.ID)
	if waiting(t, y.kube, y.namespace)[string(p.UID)] != nil {
		t.Error("a pod that a session had is in the pool again")
	}

	t.Run("sessions labels reach the pod, and another shape starts cold", func(t *testing.T) {
		made, err := rpc.Call(y.admin, y.client, api.CreateSession, api.CreateSessionRequest{Profile: "warm", Labels: map[string]string{"ticket": "A-1"}})
		if err != nil {
			t.Fatal(err)
		}
		y.reaches(made.ID, api.StateRunning)
		if p := y.pod(made.ID); p.Annotations["user.agentyard.dev/ticket"] != "A-1" || p.Labels["agentyard.dev/pool"] != "taken" {
			t.Errorf("annotations %v, labels %v", p.Annotations, p.Labels)
		}
		y.end(made.ID)
	})
	t.Run("a new image replaces the pods", func(t *testing.T) {
		clustertest.Eventually(t, "the pool is full", full(2))
		old := waiting(t, y.kube, y.namespace)
		profile.Pod.Labels = map[string]string{"team": "blue"}
		y.replace(profile)
		clustertest.Eventually(t, "all are new", func() bool {
			now := waiting(t, y.kube, y.namespace)
			return len(now) == 2 && !slices.ContainsFunc(slices.Collect(maps.Keys(now)), func(uid string) bool { return old[uid] != nil }) && full(2)()
		})
	})
	t.Run("outside of its hours there is none", func(t *testing.T) {
		day := time.Now().UTC().Add(72 * time.Hour).Weekday().String()
		profile.Pool = &api.Pool{Size: 2, Schedule: []api.PoolWindow{{Days: []string{strings.ToLower(day[:3])}, From: "08:00", To: "09:00"}}}
		y.replace(profile)
		clustertest.Eventually(t, "the pool is empty", func() bool { return len(waiting(t, y.kube, y.namespace)) == 0 })
		if st := pool(); st.Want != 0 || !strings.Contains(st.Reason, "schedule") {
			t.Errorf("%+v", st)
		}
	})
	t.Run("the pods go with the profile", func(t *testing.T) {
		profile.Pool = &api.Pool{Size: 1}
		y.replace(profile)
		clustertest.Eventually(t, "the pool is full", full(1))
		if _, err := rpc.Call(y.admin, y.client, api.DeleteProfile, api.NameRef{Name: "warm"}); err != nil {
			t.Fatal(err)
		}
		clustertest.Eventually(t, "no pod is left", func() bool { return len(waiting(t, y.kube, y.namespace)) == 0 })
	})
}

// replace writes a profile anew.
func (y *yard) replace(p api.Profile) {
	y.t.Helper()
	if _, err := rpc.Call(y.admin, y.client, api.UpdateProfile, api.UpdateProfileRequest{Name: p.Name, Profile: p}); err != nil {
		y.t.Fatalf("profile: %v", err)
	}
}

// warmLaunch is a launch of a session whose profile has a pool, and its pool.
func warmLaunch(want int) (launch.Launch, sessions.PoolSpec) {
	l := runtimetest.Launch()
	l.Pod = launch.Pod{Profile: "warm"}
	shape := l
	shape.Session, shape.Incarnation = "", 0
	return l, sessions.PoolSpec{Tenant: l.Tenant, Profile: "warm", Want: want, Shape: shape}
}

// keep asks for a pool again and again, as the service does, until the test ends or stop is called.
func keep(t *testing.T, r *kube.Runtime, spec sessions.PoolSpec) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			if err := r.SetPool(ctx, spec); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

func state(t *testing.T, r *kube.Runtime) sessions.PoolState {
	t.Helper()
	states, err := r.Pools(t.Context())
	if err != nil || len(states) > 1 {
		t.Fatalf("%+v, %v", states, err)
	}
	if len(states) == 0 {
		return sessions.PoolState{}
	}
	return states[0]
}

// TestPoolSurvives: a pool is what the cluster says it is, whoever filled it.
func TestPoolSurvives(t *testing.T) {
	t.Parallel()
	e := place(t)
	l, spec := warmLaunch(2)
	ctx, kill := context.WithCancel(context.Background())
	first := kube.New(e.config(), kube.Deps{Cluster: clustertest.Config(t), BusURL: e.srv.URL(), Credentials: e.issuer.PodCredentials})
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = first.Run(ctx)
	}()
	t.Cleanup(func() { kill(); <-gone })
	stop := keep(t, first, spec)
	clustertest.Eventually(t, "the pool is full", func() bool { return state(t, first).Ready == 2 })
	before := waiting(t, e.client, e.namespace)
	stop()
	kill()
	<-gone

	r := recorder{e.runtime(t), e}
	keep(t, r.Runtime, spec)
	clustertest.Eventually(t, "the next one has adopted it", func() bool { return state(t, r.Runtime).Ready == 2 })
	if _, err := r.Start(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	list, err := r.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Session != l.Session || list[0].Incarnation != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	pods, err := e.client.CoreV1().Pods(e.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "agentyard.dev/session=" + l.Session})
	if err != nil || len(pods.Items) != 1 || before[string(pods.Items[0].UID)] == nil {
		t.Errorf("its pod is not one of those that were there: %v", err)
	}
	t.Run("a pod that dies is replaced", func(t *testing.T) {
		clustertest.Eventually(t, "the pool is full", func() bool { return state(t, r.Runtime).Ready == 2 })
		now := waiting(t, e.client, e.namespace)
		for _, p := range now {
			if err := e.client.CoreV1().Pods(e.namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			break
		}
		clustertest.Eventually(t, "there are two, and one is new", func() bool {
			fresh := 0
			for uid := range waiting(t, e.client, e.namespace) {
				if now[uid] == nil {
					fresh++
				}
			}
			return fresh == 1 && state(t, r.Runtime).Ready == 2
		})
	})
	if err := r.Stop(t.Context(), sessions.Ref{Tenant: l.Tenant, Session: l.Session}, time.Second, false); err != nil {
		t.Fatal(err)
	}
}

// TestPoolIsTakenOnce: replicas that take from one pool at the same time never take the same pod.
func TestPoolIsTakenOnce(t *testing.T) {
	t.Parallel()
	e := place(t)
	_, spec := warmLaunch(4)
	a, b := e.runtime(t), e.runtime(t)
	stop := keep(t, a, spec)
	clustertest.Eventually(t, "both see a full pool", func() bool { return state(t, a).Ready == 4 && state(t, b).Ready == 4 })
	stop()
	before := waiting(t, e.client, e.namespace)
	var all sync.WaitGroup
	for i := range 8 {
		r := []*kube.Runtime{a, b}[i%2]
		l, _ := warmLaunch(0)
		all.Go(func() {
			if _, err := r.Start(context.Background(), l); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	pods, err := e.client.CoreV1().Pods(e.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "agentyard.dev/session"})
	if err != nil {
		t.Fatal(err)
	}
	of, warm := map[string]int{}, 0
	for _, p := range pods.Items {
		of[p.Labels["agentyard.dev/session"]]++
		if before[string(p.UID)] != nil {
			warm++
		}
	}
	if len(of) != 8 || len(pods.Items) != 8 {
		t.Errorf("%d pods of %d sessions", len(pods.Items), len(of))
	}
	if warm < 3 { // the same pod may be tried by both: whoever loses three times makes one
		t.Errorf("only %d of 4 warm pods were taken", warm)
	}
}

// TestPoolCannotFill: a pool that cannot be filled says why, whichever replica is asked.
func TestPoolCannotFill(t *testing.T) {
	t.Parallel()
	t.Run("for a quota", func(t *testing.T) {
		e := place(t)
		_, err := e.client.CoreV1().ResourceQuotas(e.namespace).Create(t.Context(), &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Name: "one"},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		clustertest.Eventually(t, "the quota counts", func() bool {
			q, err := e.client.CoreV1().ResourceQuotas(e.namespace).Get(t.Context(), "one", metav1.GetOptions{})
			return err == nil && len(q.Status.Hard) > 0
		})
		r := e.runtime(t)
		_, spec := warmLaunch(3)
		keep(t, r, spec)
		clustertest.Eventually(t, "it says so", func() bool { return strings.Contains(state(t, r).Reason, "exceeded quota") })
		if why := e.replica.WhyNot(t.Context(), spec); !strings.Contains(why, "exceeded quota") {
			t.Errorf("another replica says %q", why)
		}
		l, _ := warmLaunch(0)
		l.Pod.Profile = "cold"
		_, err = r.Start(t.Context(), l)
		if api.CodeOf(err) != api.CodeExhausted || !strings.Contains(fmt.Sprint(err), "exceeded quota") {
			t.Errorf("a session that finds no room: %v", err)
		}
	})
	t.Run("for an image", func(t *testing.T) {
		e := place(t)
		cfg := e.config()
		cfg.Image = runnerImage // which can install the runner
		r := run(t, cfg, kube.Deps{Cluster: clustertest.Config(t), BusURL: e.srv.URL(), Credentials: e.issuer.PodCredentials})
		_, spec := warmLaunch(2)
		spec.Shape.Pod.Image = "localhost/there/is:none"
		keep(t, r, spec)
		clustertest.Eventually(t, "it says so", func() bool { st := state(t, r); return st.Coming == 2 && strings.Contains(st.Reason, "there/is:none") })
	})
	t.Run("for its pods die", func(t *testing.T) {
		e := place(t)
		r := run(t, e.config(), kube.Deps{Cluster: clustertest.Config(t), BusURL: "nats://127.0.0.1:1", Credentials: func(string, time.Duration) ([]byte, error) { return []byte("nonsense"), nil }})
		_, spec := warmLaunch(1)
		keep(t, r, spec)
		clustertest.Eventually(t, "it says so", func() bool { return strings.Contains(state(t, r).Reason, "ended before a session took it") })
	})
}
