package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash/fnv"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/launch"
)

const (
	// poolFree and poolTaken are the values of labelPool: of a pod that waits for a session, and of one that a session has taken.
	poolFree, poolTaken = "free", "taken"
	// poolLife is how long the bootstrap credential of a pod of a pool is good. It is replaced some time before.
	poolLife = 24 * time.Hour
	// poolTerm is for how long a pool is kept as it was last asked for: longer than the service takes to ask again, so that whoever
	// reconciles no more fills no more either.
	poolTerm = 10 * time.Second
	// askAgain is how long the cluster's answer to why no pod can be made is believed.
	askAgain = 5 * time.Second
	// settledAfter is how long a pod must wait without a fault before earlier faults are forgotten.
	settledAfter = 10 * time.Second
	// A pool whose pods cannot be made, or end, is tried again after poolRetryFirst, twice as long each time, up to poolRetryMost.
	poolRetryFirst = time.Second
	poolRetryMost  = time.Minute
)

// poolKey names a profile's pool.
type poolKey struct{ tenant, profile string }

// warm is a pod of a pool, which is no session's yet.
type warm struct {
	pool     poolKey
	name     string
	uid      string
	id       string // by which it asks to be bound
	shape    string
	version  string // of the object, as last seen
	node     string
	made     time.Time
	readied  time.Time // when it was first seen to run; zero: it is on its way
	holdup   string
	taking   bool      // a session is about to have it
	unwanted bool      // it is to go, whatever the pool wants
	deleted  time.Time // when its deletion was last asked for
	asked    bool      // we did before
	left     chan struct{}
}

// pool is what a profile's pool should be, as whoever reconciles last said, and how filling it goes.
type pool struct {
	want     int
	shape    string
	spec     generic
	unfit    string          // why there can be no pool of this profile
	until    time.Time       // when what was said is void
	making   map[string]bool // pods whose creation is under way, which the watch may show already
	short    time.Time       // since when it lacks pods; zero: it does not
	failures int
	next     time.Time // before which none is made
	reason   string    // of the last failure
}

// SetPool implements sessions.Pooler.
func (r *Runtime) SetPool(ctx context.Context, p sessions.PoolSpec) error {
	if err := r.Ready(ctx); err != nil {
		return err
	}
	spec, key, shape := pooledOf(p), poolKey{p.Tenant, p.Profile}, ""
	if p.Want > 0 {
		shape = r.shape(spec)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.pools[key]
	if st == nil {
		st = &pool{}
		r.pools[key] = st
	}
	if st.shape != shape { // another profile, or another of our own releases: what was wrong with the one before counts no more
		st.failures, st.next, st.reason = 0, time.Time{}, ""
	}
	st.want, st.shape, st.spec, st.unfit, st.until = p.Want, shape, spec, unfit(p.Shape.Pod), time.Now().Add(poolTerm)
	r.wakeFiller()
	return nil
}

// pooledOf returns what a pool's pods have in common.
func pooledOf(p sessions.PoolSpec) generic {
	g := generic{pod: p.Shape.Pod, limits: p.Shape.Sandbox.Resources, tenant: p.Tenant}
	g.pod.Profile = p.Profile
	return g
}

// unfit says why pods of this kind cannot wait for a session, "" if they can.
func unfit(p launch.Pod) string {
	if p.Volume != nil {
		return "sessions of this profile have a volume of their own, which a pod that runs already cannot get: leave out pod.volume or the pool"
	}
	return ""
}

// Pools implements sessions.Pooler.
func (r *Runtime) Pools(ctx context.Context) ([]sessions.PoolState, error) {
	if err := r.Ready(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []sessions.PoolState
	for key, pods := range r.warm.of {
		list = append(list, r.stateLocked(key, pods))
	}
	for key, p := range r.pools {
		if _, has := r.warm.of[key]; !has && (p.want > 0 || p.reason != "") {
			list = append(list, r.stateLocked(key, nil))
		}
	}
	return list, nil
}

func (r *Runtime) stateLocked(key poolKey, pods map[string]*warm) sessions.PoolState {
	st := sessions.PoolState{Tenant: key.tenant, Profile: key.profile}
	p := r.pools[key]
	if p != nil {
		st.Coming, st.Reason = len(p.making), p.reason
		if p.unfit != "" {
			st.Reason = p.unfit
		}
	}
	for _, w := range pods {
		switch {
		case w.unwanted || !w.deleted.IsZero() || p != nil && (p.making[w.name] || p.shape != "" && w.shape != p.shape):
		case w.readied.IsZero():
			st.Coming++
			if st.Reason == "" {
				st.Reason = w.holdup
			}
		default:
			st.Ready++
		}
	}
	return st
}

// shape returns what tells pods of one kind from those of another: a hash of the manifest without what each has of its own.
func (r *Runtime) shape(g generic) string {
	g.id, g.credentials, g.pod.SessionLabels = "", nil, nil
	text, err := json.Marshal(r.manifest(g))
	if err != nil {
		return "" // cannot happen: it is sent in this form
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// warmOf reads what is known of a pod that waits for a session; false for every other.
func warmOf(p *corev1.Pod) (warm, bool) {
	w := warm{
		pool: poolKey{p.Labels[labelTenant], p.Labels[labelProfile]}, name: p.Name, uid: string(p.UID), id: p.Labels[labelPod],
		shape: p.Annotations[shapeNote], version: p.ResourceVersion, node: p.Spec.NodeName, made: p.CreationTimestamp.Time, holdup: holdupOf(p),
	}
	return w, p.Labels[labelPool] == poolFree && api.ValidName(w.pool.tenant) && w.pool.profile != ""
}

// observeWarmLocked takes news of a pod that waits for a session. The watch may be behind what the answer to a claim said.
func (r *Runtime) observeWarmLocked(p *corev1.Pod, seen warm) {
	if known := r.pods.named[p.Name]; known != nil && known.uid == seen.uid {
		return
	}
	w := r.warm.named[p.Name]
	if w == nil || w.uid != seen.uid {
		if w != nil {
			r.leaveLocked(w)
		}
		w = &seen
		w.left = make(chan struct{})
		r.warm.put(w.pool, w.name, w)
	}
	w.version, w.holdup = seen.version, seen.holdup
	if seen.node != "" {
		w.node = seen.node
	}
	switch up := runs(p); {
	case !up:
		w.readied = time.Time{}
	case w.readied.IsZero():
		w.readied = time.Now()
	}
	if p.DeletionTimestamp != nil && w.deleted.IsZero() {
		w.unwanted, w.deleted = true, time.Now()
	}
	if reason, ended := endOf(p); ended && !w.unwanted {
		w.unwanted = true
		r.failedLocked(w.pool, "a pod of it ended before a session took it: "+reason, 0)
	}
	r.wakeFiller()
}

// runs reports whether a pod's runner runs, on a node that answers.
func runs(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status != corev1.ConditionTrue {
			return false
		}
	}
	return slices.ContainsFunc(p.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.Name == container && c.State.Running != nil })
}

// leaveLocked forgets a pod that is of no pool any more: a session has it, or it is gone.
func (r *Runtime) leaveLocked(w *warm) {
	close(w.left)
	r.warm.drop(w.pool, w.name)
	r.wakeFiller()
}

// failedLocked notes why a pool could not be filled, and when it is tried again.
func (r *Runtime) failedLocked(key poolKey, reason string, atLeast time.Duration) {
	p := r.pools[key]
	if p == nil {
		p = &pool{}
		r.pools[key] = p
	}
	wait := poolRetryMost
	if p.failures < 6 {
		wait = min(poolRetryFirst<<p.failures, poolRetryMost)
	}
	p.failures++
	p.reason, p.next = reason, time.Now().Add(max(wait, atLeast))
}

// expired reports whether a pod has waited so long that its credential may soon be void. Pods that were made together do not expire together.
func (w *warm) expired(now time.Time) bool {
	h := fnv.New32a()
	_, _ = h.Write([]byte(w.uid)) // of a hash it has no error
	return now.Sub(w.made) > poolLife/2+poolLife/4*time.Duration(h.Sum32()%64)/64
}

// chore is one thing to be done about a pool: a pod to be made, or one to be removed.
type chore struct {
	key    poolKey
	make   generic
	shape  string
	remove *warm
}

// choreLocked returns the next thing to be done, and notes that it is being done; false when there is none. Of several pools the emptiest is first.
func (r *Runtime) choreLocked(now time.Time) (chore, bool) {
	best, lowest := chore{}, 1.0
	for key, p := range r.pools {
		if now.After(p.until) {
			if len(p.making) == 0 && len(r.warm.of[key]) == 0 && now.After(p.next) {
				delete(r.pools, key)
			}
			continue
		}
		have, ready, calm := len(p.making), 0, false
		var spare *warm // that may go
		for _, w := range r.warm.of[key] {
			gone := w.unwanted || p.want == 0 || w.shape != p.shape || p.unfit != ""
			switch {
			case w.taking, p.making[w.name]:
			case gone && now.Sub(w.deleted) > lostAfter:
				w.unwanted, w.deleted = true, now
				return chore{key: key, remove: w}, true
			case gone:
			case w.expired(now):
				w.unwanted, w.deleted = true, now // one at a time, for the next is made first
				return chore{key: key, remove: w}, true
			default:
				have++
				if !w.readied.IsZero() {
					ready++
				}
				calm = calm || !w.readied.IsZero() && now.Sub(w.readied) > settledAfter
				if spare == nil || w.readied.IsZero() && !spare.readied.IsZero() || w.readied.IsZero() == spare.readied.IsZero() && w.made.After(spare.made) {
					spare = w
				}
			}
		}
		if calm || p.want == 0 {
			p.failures, p.reason = 0, ""
		}
		if have >= p.want {
			p.short = time.Time{}
		} else if p.short.IsZero() {
			p.short = now
		}
		switch {
		case have > p.want && spare != nil:
			spare.unwanted, spare.deleted = true, now
			return chore{key: key, remove: spare}, true
		case 2*ready >= p.want && now.Sub(p.short) < shortMost && now.Sub(time.Unix(0, r.started.Load())) < calmFor: // it can wait
		case have < p.want && p.unfit == "" && !now.Before(p.next):
			if full := float64(have) / float64(p.want); full < lowest {
				best, lowest = chore{key: key, make: p.spec, shape: p.shape}, full
			}
		}
	}
	if lowest == 1 {
		return chore{}, false
	}
	p := r.pools[best.key]
	if p.making == nil {
		p.making = map[string]bool{}
	}
	best.make.id = api.NewID(api.KindSession)
	p.making[best.make.id] = true
	return best, true
}

// answer is what the cluster said lately.
type answer struct {
	why string
	at  time.Time
}

// WhyNot has the cluster say why no pod of a shape can be made now, without making one; "" when one can. Any replica may ask; who asks often is
// told what was said before, for asking costs the cluster as much as making.
func (r *Runtime) WhyNot(ctx context.Context, p sessions.PoolSpec) string {
	key := poolKey{p.Tenant, p.Profile}
	r.mu.Lock()
	for k, a := range r.asked {
		if time.Since(a.at) > askAgain {
			delete(r.asked, k)
		}
	}
	before, known := r.asked[key]
	r.mu.Unlock()
	if known {
		return before.why
	}
	why := r.whyNot(ctx, p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[key] = answer{why, time.Now()}
	return why
}

func (r *Runtime) whyNot(ctx context.Context, p sessions.PoolSpec) string {
	if why := unfit(p.Shape.Pod); why != "" {
		return why
	}
	spec := pooledOf(p)
	spec.id = api.NewID(api.KindSession)
	if err := r.makeWarm(ctx, spec, r.shape(spec), true); err != nil {
		return err.Error()
	}
	return ""
}
