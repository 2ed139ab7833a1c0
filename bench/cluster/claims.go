package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// claims are what warm starts are compared with: the least that a controller of claims does whose pods are ready before, in client-go alone. Somebody
// makes a claim, the controller's watch shows it, it marks a ready pod as the claim's on the condition that it is free, writes the pod into the claim, and the
// claimer's watch shows that. That is what the gate of kubernetes-sigs/agent-sandbox measures, from the claim's creation until it is ready; its own
// controller writes more for each. Nothing is told to the pod, nothing is started in it, and nothing but the cluster remembers it.
type claims struct {
	p      *place
	kube   kubernetes.Interface
	free   chan *corev1.Pod // that are ready and nobody's
	fill   chan struct{}    // pods to be made in place of those that were claimed
	last   atomic.Int64
	cancel context.CancelFunc
	parts  sync.WaitGroup

	mu     sync.Mutex
	bound  map[string]chan struct{} // by claim
	failed error
}

const (
	claimLabel   = "bench.agentyard.dev/claim"
	claimPod     = "pod" // in the claim's data
	claimWorkers = starters
	claimFillers = 4 // as our pools have
)

// startClaims returns a controller with so many pods that are ready.
func startClaims(ctx context.Context, p *place, ready int) (*claims, error) {
	cfg := rest.CopyConfig(p.config)
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	cfg.Dial = (&net.Dialer{}).DialContext // connections of its own
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(ctx)
	c := &claims{
		p: p, kube: client, cancel: cancel, free: make(chan *corev1.Pod, 1<<14), fill: make(chan struct{}, 1<<14), bound: map[string]chan struct{}{},
	}
	if err := each(ready, starters, func(int) error { return c.make(run) }); err != nil {
		cancel()
		return nil, err
	}
	todo := make(chan string, 1<<14)
	watch := cache.NewFilteredListWatchFromClient(client.CoreV1().RESTClient(), "configmaps", plainSpace, func(o *metav1.ListOptions) {
		o.LabelSelector = labels.Set{claimLabel: "true"}.String()
	})
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: watch, ObjectType: &corev1.ConfigMap{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) {
				if m := obj.(*corev1.ConfigMap); !c.observe(m) {
					todo <- m.Name
				}
			},
			UpdateFunc: func(_, obj any) { c.observe(obj.(*corev1.ConfigMap)) },
		},
	})
	c.parts.Go(func() { informer.RunWithContext(run) })
	for range claimWorkers {
		c.parts.Go(func() { c.work(run, todo) })
	}
	for range claimFillers {
		c.parts.Go(func() { c.refill(run) })
	}
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		c.stop()
		return nil, ctx.Err()
	}
	return c, nil
}

func (c *claims) stop() {
	c.cancel()
	c.parts.Wait()
}

// make makes a pod like a session's and waits until it is ready.
func (c *claims) make(ctx context.Context) error {
	made, err := c.kube.CoreV1().Pods(plainSpace).Create(ctx, c.p.plainPod(), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err := c.p.nodes.awaitUp(ctx, made.UID); err != nil {
		return err
	}
	c.free <- made
	return nil
}

func (c *claims) refill(ctx context.Context) {
	for {
		select {
		case <-c.fill:
			c.fail(ctx, c.make(ctx))
		case <-ctx.Done():
			return
		}
	}
}

func (c *claims) work(ctx context.Context, todo <-chan string) {
	for {
		select {
		case name := <-todo:
			select {
			case pod := <-c.free:
				c.fail(ctx, c.bind(ctx, name, pod))
			case <-ctx.Done():
			}
		case <-ctx.Done():
			return
		}
	}
}

// bind gives a claim a pod.
func (c *claims) bind(ctx context.Context, name string, pod *corev1.Pod) error {
	label := "/metadata/labels/bench.agentyard.dev~1claim"
	patch, err := json.Marshal([]map[string]string{{"op": "test", "path": "/metadata/uid", "value": string(pod.UID)}, {"op": "add", "path": label, "value": name}})
	if err != nil {
		return err
	}
	if _, err := c.kube.CoreV1().Pods(plainSpace).Patch(ctx, pod.Name, types.JSONPatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("claim a pod: %w", err)
	}
	if patch, err = json.Marshal(map[string]any{"data": map[string]string{claimPod: pod.Name}}); err != nil {
		return err
	}
	if _, err := c.kube.CoreV1().ConfigMaps(plainSpace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("say which pod the claim has: %w", err)
	}
	return nil
}

// observe wakes who waits for a claim that has a pod, and reports whether it has one.
func (c *claims) observe(m *corev1.ConfigMap) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Data[claimPod] == "" {
		return false
	}
	if done := c.bound[m.Name]; done != nil {
		close(done)
		delete(c.bound, m.Name)
	}
	return true
}

// claim makes a claim and waits until it has a pod. With replace another pod is made in its place.
func (c *claims) claim(ctx context.Context, replace bool) error {
	name := "claim-" + strconv.FormatInt(c.last.Add(1), 10)
	done := make(chan struct{})
	c.mu.Lock()
	c.bound[name] = done
	c.mu.Unlock()
	_, err := c.p.kube.CoreV1().ConfigMaps(plainSpace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{claimLabel: "true"}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if replace {
		c.fill <- struct{}{}
	}
	return nil
}

func (c *claims) fail(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed == nil {
		c.failed = err
	}
}

func (c *claims) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// during runs work on starters goroutines for so long and returns how long each call took, and how many there were a second.
func during(d time.Duration, work func(i int) error) (took []time.Duration, rate float64, err error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	began := time.Now()
	for w := range starters {
		all.Go(func() {
			for i := w; time.Since(began) < d; i++ {
				at := time.Now()
				failed := work(i)
				mu.Lock()
				if failed != nil {
					err = failed
					mu.Unlock()
					return
				}
				took = append(took, time.Since(at))
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return took, float64(len(took)) / time.Since(began).Seconds(), err
}
