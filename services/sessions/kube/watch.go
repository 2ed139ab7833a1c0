package kube

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"agentyard.dev/services/sessions"
)

const (
	// lostAfter is how long after its grace a deleted pod may stay before its node is believed to be unable to end it.
	lostAfter = 10 * time.Second
	// maxNews bounds the ends that wait to be told.
	maxNews = 1 << 16
)

// follow begins to watch pods and volumes, and reports whether all that there is at the beginning was seen before ctx ended.
func (r *Runtime) follow(ctx context.Context, client kubernetes.Interface, parts *sync.WaitGroup) bool {
	ours := func(o *metav1.ListOptions) {
		o.LabelSelector = labelManagedBy + "=" + managedBy + "," + labelInstance + "=" + r.cfg.Instance
	}
	core := client.CoreV1().RESTClient()
	podWatch := cache.NewFilteredListWatchFromClient(core, "pods", r.cfg.Namespace, ours)
	volumeWatch := cache.NewFilteredListWatchFromClient(core, "persistentvolumeclaims", r.cfg.Namespace, ours)
	_, pods := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: podWatch, ObjectType: &corev1.Pod{}, Transform: strip,
		Handler: cache.ResourceEventHandlerDetailedFuncs{
			AddFunc:    func(obj any, initial bool) { r.observe(obj.(*corev1.Pod), initial) },
			UpdateFunc: func(_, obj any) { r.observe(obj.(*corev1.Pod), false) },
			DeleteFunc: func(obj any) {
				if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = last.Obj
				}
				if p, ok := obj.(*corev1.Pod); ok {
					r.removed(p)
				}
			},
		},
	})
	_, volumes := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: volumeWatch, ObjectType: &corev1.PersistentVolumeClaim{}, Transform: stripVolume, Handler: r.volumeHandler(),
	})
	for _, c := range []cache.Controller{pods, volumes} {
		parts.Go(func() { c.RunWithContext(ctx) })
	}
	return cache.WaitForCacheSync(ctx.Done(), pods.HasSynced, volumes.HasSynced)
}

// observe takes news of a pod, from the watch or from the answer to a request. It keeps nothing of p itself.
func (r *Runtime) observe(p *corev1.Pod, initial bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.observeLocked(p, initial)
}

func (r *Runtime) observeLocked(p *corev1.Pod, initial bool) {
	w, waits := warmOf(p)
	i, mine := identify(p.Labels)
	if waits {
		r.observeWarmLocked(p, w)
		return
	}
	if before := r.warm.named[p.Name]; before != nil {
		r.leaveLocked(before)
	}
	if !mine {
		return
	}
	known := r.pods.named[p.Name]
	if known == nil || known.uid != string(p.UID) {
		if known != nil {
			r.dropLocked(known)
		}
		known = &pod{Instance: i, name: p.Name, uid: string(p.UID), id: p.Labels[labelPod], gone: make(chan struct{})}
		r.pods.put(i.Session, p.Name, known)
	}
	delete(r.refused, i.Session)
	if p.Spec.NodeName != "" {
		known.node = p.Spec.NodeName
	}
	known.holdup = holdupOf(p)
	if p.DeletionTimestamp != nil {
		known.deleted = p.DeletionTimestamp.Time
	}
	known.why = withDisruption(p, "")
	if reason, ended := endOf(p); ended {
		r.endLocked(known, reason, initial)
	}
}

// endLocked tells, once, that a pod ended. One that had ended before this process looked was nobody's to watch. Should two replicas have made or taken a pod
// each for one incarnation, the second was refused its launch and its end is none of the incarnation's.
func (r *Runtime) endLocked(p *pod, reason string, unwatched bool) {
	if p.ended {
		return
	}
	p.ended, p.since = true, time.Now()
	for _, other := range r.pods.of[p.Session] {
		if other.Incarnation == p.Incarnation && !other.ended {
			return
		}
	}
	if len(r.news) < maxNews {
		r.news = append(r.news, sessions.Exit{Ref: p.Ref, Incarnation: p.Incarnation, Reason: reason, Unwatched: unwatched})
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// removed takes the news that a pod is no more.
func (r *Runtime) removed(p *corev1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.warm.named[p.Name]; w != nil && w.uid == string(p.UID) {
		r.leaveLocked(w)
	}
	known := r.pods.named[p.Name]
	if known == nil || known.uid != string(p.UID) {
		return
	}
	reason, ended := endOf(p)
	switch {
	case ended:
	case known.why != "":
		reason = known.why
	case known.stopping:
		reason = "it was stopped"
	default:
		reason = "its pod was deleted by somebody else"
	}
	r.endLocked(known, reason, false)
	r.dropLocked(known)
}

// dropLocked forgets a pod that is no more.
func (r *Runtime) dropLocked(p *pod) {
	close(p.gone)
	r.pods.drop(p.Session, p.name)
}

// of returns the pods of a session.
func (r *Runtime) of(session string) []*pod {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*pod
	for _, p := range r.pods.of[session] {
		list = append(list, p)
	}
	return list
}

// tidy removes what ended by itself and was to be looked at for long enough, and what a silent node cannot end.
func (r *Runtime) tidy(ctx context.Context) {
	now := time.Now()
	var dead, lost []*pod
	r.mu.Lock()
	for _, p := range r.pods.named {
		switch {
		case !p.deleted.IsZero() && now.Sub(p.deleted) > lostAfter:
			lost = append(lost, p)
		case p.ended && p.deleted.IsZero() && now.Sub(p.since) > r.cfg.KeepDead:
			dead = append(dead, p)
		}
	}
	r.mu.Unlock()
	for _, p := range dead {
		r.warn(p, "remove a dead pod", r.remove(ctx, p, 0))
	}
	for _, p := range lost {
		r.mu.Lock()
		why := p.why
		if why == "" {
			why = "its node " + p.node + " does not answer"
		}
		r.endLocked(p, why, false)
		r.mu.Unlock()
		r.warn(p, "remove the pod of a lost node", r.force(ctx, p))
	}
}

func (r *Runtime) warn(p *pod, doing string, err error) {
	if err != nil {
		r.log.Warn(doing, "tenant", p.Tenant, "session", p.Session, "node", p.node, "err", err)
	}
}
