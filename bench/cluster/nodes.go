package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/runner"
)

const (
	// nodeCount simulated nodes have room for nodePods each.
	nodeCount = 8
	nodePods  = 2000
	// nodeWorkers is how many pods are started or ended at once.
	nodeWorkers = 64
)

// nodes are the simulated nodes of a cluster.
type nodes struct {
	kube   kubernetes.Interface
	cancel context.CancelFunc
	parts  sync.WaitGroup
	work   chan func()

	mu      sync.Mutex
	started map[types.UID]context.CancelFunc // ends what stands in for the pod's runner
	ending  map[types.UID]bool
	up      map[types.UID]time.Time // when the cluster had taken that it runs
	news    chan struct{}           // closed at the next change of up
	bound   int
	failed  error
}

// startNodes registers the nodes and has them work until stop.
func startNodes(ctx context.Context, of *rest.Config) (*nodes, error) {
	cfg := rest.CopyConfig(of)
	cfg.QPS = -1
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	cfg.Dial = (&net.Dialer{}).DialContext // connections of their own
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n := &nodes{
		kube: client, cancel: cancel, work: make(chan func(), 1<<15),
		started: map[types.UID]context.CancelFunc{}, ending: map[types.UID]bool{}, up: map[types.UID]time.Time{}, news: make(chan struct{}),
	}
	for i := range nodeCount {
		if err := n.register(ctx, fmt.Sprintf("simulated%d", i+1)); err != nil {
			cancel()
			return nil, err
		}
	}
	for range nodeWorkers {
		n.parts.Go(func() {
			for {
				select {
				case f := <-n.work:
					f()
				case <-run.Done():
					return
				}
			}
		})
	}
	watch := cache.NewFilteredListWatchFromClient(client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll, func(o *metav1.ListOptions) { o.FieldSelector = "spec.nodeName!=" })
	_, pods := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: watch, ObjectType: &corev1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { n.observe(run, obj.(*corev1.Pod)) },
			UpdateFunc: func(_, obj any) { n.observe(run, obj.(*corev1.Pod)) },
			DeleteFunc: func(obj any) {
				if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = last.Obj
				}
				if p, ok := obj.(*corev1.Pod); ok {
					n.forget(p.UID)
				}
			},
		},
	})
	n.parts.Go(func() { pods.RunWithContext(run) })
	if !cache.WaitForCacheSync(ctx.Done(), pods.HasSynced) {
		n.stop()
		return nil, ctx.Err()
	}
	return n, nil
}

func (n *nodes) register(ctx context.Context, name string) error {
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("10000"), corev1.ResourceMemory: resource.MustParse("100Ti"),
		corev1.ResourcePods: *resource.NewQuantity(nodePods, resource.DecimalSI),
	}
	_, err := n.kube.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("register a node: %w", err)
	}
	status, err := json.Marshal(map[string]any{"status": corev1.NodeStatus{
		Capacity: room, Allocatable: room,
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Simulated", LastHeartbeatTime: metav1.Now()}},
	}})
	if err == nil {
		_, err = n.kube.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, status, metav1.PatchOptions{}, "status")
	}
	if err != nil {
		return fmt.Errorf("make a node ready: %w", err)
	}
	return wait(ctx, "the node's taints to go", func() bool {
		node, err := n.kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		return err == nil && len(node.Spec.Taints) == 0
	})
}

func (n *nodes) stop() {
	n.cancel()
	n.parts.Wait()
}

// observe starts a pod that is new, once, and ends one that is to be deleted, once.
func (n *nodes) observe(ctx context.Context, p *corev1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case p.DeletionTimestamp != nil:
		if n.ending[p.UID] {
			return
		}
		n.ending[p.UID] = true
		if cancel := n.started[p.UID]; cancel != nil {
			cancel()
		}
		n.work <- func() { n.end(ctx, p) }
	case n.started[p.UID] == nil && p.Status.Phase == corev1.PodPending:
		alive, cancel := context.WithCancel(ctx)
		n.started[p.UID] = cancel
		n.work <- func() { n.start(alive, p) }
	}
}

func (n *nodes) forget(uid types.UID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if cancel := n.started[uid]; cancel != nil {
		cancel()
	}
	delete(n.started, uid)
	delete(n.ending, uid)
	delete(n.up, uid)
	n.tellLocked()
}

func (n *nodes) tellLocked() {
	close(n.news)
	n.news = make(chan struct{})
}

// start marks a pod as running and ready in one write, and has a stand-in take the place of its runner.
func (n *nodes) start(ctx context.Context, p *corev1.Pod) {
	now := metav1.Now()
	status, err := json.Marshal(map[string]any{"status": corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: "192.0.2.1", PodIPs: []corev1.PodIP{{IP: "192.0.2.1"}}, StartTime: &now,
		Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now}, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
			{Type: corev1.PodInitialized, Status: corev1.ConditionTrue, LastTransitionTime: now},
		},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: p.Spec.Containers[0].Name, Ready: true, Image: p.Spec.Containers[0].Image, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		}},
	}})
	if err == nil {
		_, err = n.kube.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, status, metav1.PatchOptions{}, "status")
	}
	if err != nil {
		n.fail(ctx, fmt.Errorf("start pod %s: %w", p.Name, err))
		return
	}
	n.mu.Lock()
	n.up[p.UID] = time.Now()
	n.tellLocked()
	n.mu.Unlock()
	if p.Namespace == sessionSpace {
		n.parts.Go(func() { n.standIn(ctx, p) })
	}
}

// standIn does what a pod's runner does at its start: it asks for its launch, waits for it, reports that it runs, and is connected until its pod ends.
func (n *nodes) standIn(ctx context.Context, p *corev1.Pod) {
	env := map[string]string{runner.EnvPod: p.Name, runner.EnvUID: string(p.UID), runner.EnvIP: "192.0.2.1"}
	for _, v := range p.Spec.Containers[0].Env {
		if v.Value != "" {
			env[v.Name] = v.Value
		}
	}
	if env[runner.EnvBusURL] == "" {
		return // of the seed
	}
	l, err := runner.PodFromEnvironment(func(name string) string { return env[name] }).Bind(ctx, discard)
	if err != nil {
		n.fail(ctx, fmt.Errorf("bind pod %s: %w", p.Name, err))
		return
	}
	n.mu.Lock()
	n.bound++
	n.mu.Unlock()
	err = reportAs(ctx, l, api.RunnerReportRequest{
		Incarnation: l.Incarnation, State: api.StateRunning, Activity: api.ActivityIdle, Endpoint: l.Endpoint, Version: 1, ActiveAt: time.Now().UnixMilli(),
	})
	if err != nil {
		n.fail(ctx, fmt.Errorf("report of pod %s: %w", p.Name, err))
	}
}

// end takes a pod out of the cluster, as a kubelet does when its containers have ended.
func (n *nodes) end(ctx context.Context, p *corev1.Pod) {
	now := int64(0)
	err := n.kube.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &p.UID}})
	if err != nil && ctx.Err() == nil {
		n.mu.Lock()
		delete(n.ending, p.UID) // the next news tries again
		n.mu.Unlock()
	}
}

// fail notes the first thing that went wrong with a pod that was still wanted.
func (n *nodes) fail(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.failed == nil {
		n.failed = err
	}
}

func (n *nodes) err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.failed
}

// awaitUp waits until a pod runs, or is gone.
func (n *nodes) awaitUp(ctx context.Context, uid types.UID) (time.Time, error) {
	for {
		n.mu.Lock()
		at, ok := n.up[uid]
		news := n.news
		n.mu.Unlock()
		if ok {
			return at, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return at, ctx.Err()
		}
	}
}
