package kube

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/launch"
)

var testPool = poolKey{"acme", "warm"}

// pooled returns a runtime with one pool that wants so many, without a cluster.
func pooled(want int) *Runtime {
	r := New(DefaultConfig(), Deps{})
	r.pools[testPool] = &pool{want: want, shape: "round", until: time.Now().Add(time.Hour)}
	return r
}

type change func(*corev1.Pod)

func running(p *corev1.Pod) {
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: container, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
}

func shaped(shape string) change { return func(p *corev1.Pod) { p.Annotations[shapeNote] = shape } }

func aged(d time.Duration) change {
	return func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(time.Now().Add(-d)) }
}

func deleted(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} }

func crashed(p *corev1.Pod) {
	p.Status.Phase = corev1.PodFailed
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: container, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Message: "no bus"}}}}
}

func takenBy(session string, incarnation string) change {
	return func(p *corev1.Pod) {
		p.Labels[labelPool], p.Labels[labelSession], p.Labels[labelIncarnation] = poolTaken, session, incarnation
	}
}

// waiting returns a pod of the pool.
func waiting(name string, changes ...change) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: name, UID: types.UID("uid-" + name), ResourceVersion: "1", CreationTimestamp: metav1.Now(), Annotations: map[string]string{shapeNote: "round"},
		Labels: map[string]string{labelPool: poolFree, labelTenant: testPool.tenant, labelProfile: testPool.profile, labelPod: "id-" + name},
	}}
	for _, c := range changes {
		c(p)
	}
	out, _ := strip(p)
	return out.(*corev1.Pod)
}

// TestChores: what is done about a pool follows from what is there.
func TestChores(t *testing.T) {
	for name, c := range map[string]struct {
		want int
		pods []*corev1.Pod
		do   string // one letter a chore: m(ake), or the name of the pod that is removed
	}{
		"an empty one is filled":           {3, nil, "m m m"},
		"what is on its way counts":        {3, []*corev1.Pod{waiting("a"), waiting("b", running)}, "m"},
		"a full one is left alone":         {1, []*corev1.Pod{waiting("a", running)}, ""},
		"the youngest unready goes first":  {1, []*corev1.Pod{waiting("a", aged(time.Hour)), waiting("b"), waiting("c", running)}, "b a"},
		"none is wanted":                   {0, []*corev1.Pod{waiting("a", running), waiting("b")}, "a b"},
		"another shape is replaced":        {1, []*corev1.Pod{waiting("a", running, shaped("square"))}, "a m"},
		"what is being deleted is let go":  {1, []*corev1.Pod{waiting("a", running, deleted)}, "m"},
		"one is replaced before it is old": {1, []*corev1.Pod{waiting("a", running, aged(poolLife*3/4))}, "a m"},
		"one of half its life is not":      {1, []*corev1.Pod{waiting("a", running, aged(poolLife/2-time.Minute))}, ""},
		"a dead one goes and is a failure": {1, []*corev1.Pod{waiting("a", crashed)}, "a"},
		"a session's is no longer counted": {1, []*corev1.Pod{waiting("a", running, takenBy("sabcdefghijklmnop", "1"))}, "m"},
	} {
		t.Run(name, func(t *testing.T) {
			r := pooled(c.want)
			for _, p := range c.pods {
				r.observe(p, true)
			}
			did := map[string]int{}
			for range 10 {
				r.mu.Lock()
				chore, some := r.choreLocked(time.Now())
				r.mu.Unlock()
				if !some {
					break
				}
				if chore.remove != nil {
					did[chore.remove.name]++
				} else {
					did["m"]++
				}
			}
			want := map[string]int{}
			for _, what := range strings.Fields(c.do) {
				want[what]++
			}
			if fmt.Sprint(did) != fmt.Sprint(want) {
				t.Errorf("did %v, want %v", did, want)
			}
		})
	}
}

// TestPoolBacksOff: what cannot be filled is tried again later and later, and says why; what works is forgiven.
func TestPoolBacksOff(t *testing.T) {
	r := pooled(1)
	close(r.ready)
	for n := range 8 {
		name := fmt.Sprint("p", n)
		r.observe(waiting(name), false)
		r.observe(waiting(name, crashed), false)
		r.removed(waiting(name, crashed))
	}
	p := r.pools[testPool]
	if wait := time.Until(p.next); wait < poolRetryMost-time.Second || wait > poolRetryMost {
		t.Errorf("after eight deaths the next try is in %s", wait)
	}
	r.mu.Lock()
	_, some := r.choreLocked(time.Now())
	r.mu.Unlock()
	if some {
		t.Error("it is tried again at once")
	}
	states, err := r.Pools(t.Context())
	if err != nil || len(states) != 1 || !strings.Contains(states[0].Reason, "no bus") {
		t.Errorf("%+v, %v", states, err)
	}
	r.observe(waiting("good", running), false)
	r.mu.Lock()
	r.choreLocked(time.Now().Add(settledAfter + time.Second))
	r.mu.Unlock()
	if states, _ = r.Pools(t.Context()); len(states) != 1 || states[0] != (sessions.PoolState{Tenant: "acme", Profile: "warm", Ready: 1}) {
		t.Errorf("when one is ready: %+v", states)
	}
}

// TestNotCountedTwice: a pod that the watch shows before the answer to its creation has come is one pod.
func TestNotCountedTwice(t *testing.T) {
	r := pooled(2)
	close(r.ready)
	r.mu.Lock()
	first, _ := r.choreLocked(time.Now())
	r.mu.Unlock()
	r.observe(waiting(first.make.id), false)
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, some := r.choreLocked(time.Now()); !some || c.remove != nil {
		t.Errorf("the second: %+v", c)
	}
	if c, some := r.choreLocked(time.Now()); some {
		t.Errorf("a third: %+v", c)
	}
	if st := r.stateLocked(testPool, r.warm.of[testPool]); st.Coming != 2 {
		t.Errorf("%+v", st)
	}
}

// TestFillingEndsWithTheTerm: who reconciles no more fills no more.
func TestFillingEndsWithTheTerm(t *testing.T) {
	r := pooled(5)
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, some := r.choreLocked(time.Now().Add(2 * time.Hour)); some {
		t.Errorf("%+v", c)
	}
}

// TestPick: the pod that has been ready for longest is taken, once, and only one of the right kind.
func TestPick(t *testing.T) {
	r := pooled(4)
	for _, p := range []*corev1.Pod{waiting("coming"), waiting("other", running, shaped("square")), waiting("going", running, deleted), waiting("first", running), waiting("second", running)} {
		r.observe(p, false)
	}
	for _, want := range []string{"first", "second"} {
		if w := r.pick(testPool, "round"); w == nil || w.name != want {
			t.Fatalf("picked %+v, want %s", w, want)
		}
	}
	if w := r.pick(testPool, "round"); w != nil {
		t.Errorf("picked %s", w.name)
	}
}

// TestTaken: a pod that a session has taken is the session's, even if older news come after it.
func TestTaken(t *testing.T) {
	r := pooled(1)
	r.observe(waiting("a", running), false)
	left := r.warm.named["a"].left
	r.observe(waiting("a", running, takenBy("sabcdefghijklmnop", "2")), false)
	r.observe(waiting("a", running), false)
	select {
	case <-left:
	default:
		t.Error("who waits for it was not told")
	}
	if len(r.warm.named) != 0 || len(r.warm.of) != 0 {
		t.Errorf("it still waits: %+v", r.warm.named)
	}
	if p := r.pods.named["a"]; p == nil || p.Session != "sabcdefghijklmnop" || p.Incarnation != 2 || p.Tenant != "acme" {
		t.Errorf("%+v", p)
	}
}

// TestTwoPodsOfOneIncarnation: the end of the one that was refused is not the incarnation's.
func TestTwoPodsOfOneIncarnation(t *testing.T) {
	r := pooled(2)
	for _, name := range []string{"a", "b"} {
		r.observe(waiting(name, running, takenBy("sabcdefghijklmnop", "1")), false)
	}
	r.observe(waiting("b", takenBy("sabcdefghijklmnop", "1"), crashed), false)
	if len(r.news) != 0 {
		t.Errorf("told %+v", r.news)
	}
	r.observe(waiting("a", takenBy("sabcdefghijklmnop", "1"), crashed), false)
	if len(r.news) != 1 {
		t.Errorf("told %+v", r.news)
	}
}

// TestClaim shows the patch that makes a free pod a session's.
func TestClaim(t *testing.T) {
	got, err := json.Marshal(claimOf("u1", launch.Launch{Session: "sabcdefghijklmnop", Incarnation: 2, Pod: launch.Pod{SessionLabels: map[string]string{"a/b": "c"}}}))
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"op":"test","path":"/metadata/uid","value":"u1"},` +
		`{"op":"test","path":"/metadata/labels/agentyard.dev~1pool","value":"free"},` +
		`{"op":"replace","path":"/metadata/labels/agentyard.dev~1pool","value":"taken"},` +
		`{"op":"add","path":"/metadata/labels/agentyard.dev~1session","value":"sabcdefghijklmnop"},` +
		`{"op":"add","path":"/metadata/labels/agentyard.dev~1incarnation","value":"2"},` +
		`{"op":"add","path":"/metadata/managedFields","value":[{}]},` +
		`{"op":"add","path":"/metadata/annotations/user.agentyard.dev~1a.b","value":"c"}]`
	if string(got) != want {
		t.Errorf("%s", got)
	}
	got, err = json.Marshal(claimOf("u1", launch.Launch{Session: "s1", Incarnation: 1, Pod: launch.Pod{Pod: api.Pod{Collector: true}}}))
	if err != nil || !strings.Contains(string(got), `"path":"/metadata/annotations/agentyard.dev~1scrape","value":"[{\"labels\":{\"instance\":\"s1\"}`) {
		t.Errorf("the collector is not told whose it is: %s, %v", got, err)
	}
}

// TestShape: a shape is the pod's, not the session's.
func TestShape(t *testing.T) {
	r := New(DefaultConfig(), Deps{BusURL: "nats://bus:4222"})
	of := func(l launch.Pod, limits api.Resources) string {
		return r.shape(generic{id: api.NewID(api.KindSession), credentials: []byte(api.NewID(api.KindSession)), pod: l, limits: limits})
	}
	base := of(launch.Pod{Profile: "p"}, api.Resources{})
	if again := of(launch.Pod{Profile: "p", SessionLabels: map[string]string{"x": "y"}}, api.Resources{}); again != base {
		t.Error("a session's labels change the shape")
	}
	for name, other := range map[string]string{
		"resources": of(launch.Pod{Profile: "p"}, api.Resources{CPUs: 1}),
		"image":     of(launch.Pod{Profile: "p", Image: "another"}, api.Resources{}),
		"pod":       of(launch.Pod{Profile: "p", Pod: api.Pod{RuntimeClass: "gvisor"}}, api.Resources{}),
	} {
		if other == base {
			t.Errorf("%s does not change the shape", name)
		}
	}
}
