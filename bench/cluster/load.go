package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions/launch"
)

var discard = slog.New(slog.DiscardHandler)

// reportAs says something with a session's own credential, and stays connected until ctx ends, as a runner does.
func reportAs(ctx context.Context, l launch.Launch, req api.RunnerReportRequest) error {
	conn, err := bus.Connect(bus.Config{URL: l.BusURL, Credentials: l.Credentials, Name: l.Session, Logger: discard})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	client := rpc.NewClient(conn, rpc.ClientConfig{Name: "runner", Timeout: 20 * time.Second})
	if _, err = rpc.CallAsSession(ctx, client, l.Tenant, l.Session, api.RunnerReport, req); err == nil {
		<-ctx.Done()
	}
	return err
}

// session makes a session of a profile and waits until it runs.
func (p *place) session(profile string) (api.Session, error) {
	s, err := rpc.Call(p.admin, p.client, api.CreateSession, api.CreateSessionRequest{Profile: profile, Wait: string(api.StateRunning)})
	if err == nil && s.State != api.StateRunning {
		err = fmt.Errorf("session %s is %s: %s", s.ID, s.State, s.Reason)
	}
	return s, err
}

// end deletes sessions and waits until their pods are gone.
func (p *place) end(ctx context.Context, ids []string) error {
	err := each(len(ids), starters, func(i int) error {
		_, err := rpc.Call(p.admin, p.client, api.DeleteSession, api.SessionRef{ID: ids[i]})
		return err
	})
	if err != nil {
		return err
	}
	return wait(ctx, "the sessions' pods to go", func() bool {
		left, err := p.kube.CoreV1().Pods(sessionSpace).List(ctx, metav1.ListOptions{LabelSelector: "agentyard.dev/session", Limit: 1})
		return err == nil && len(left.Items) == 0
	})
}

// starters is how many starts are under way at once, ours and the plain loop's.
const starters = 32

// each calls f for 0 to n-1, so many at once, and returns the first error.
func each(n, workers int, f func(int) error) error {
	next := make(chan int)
	go func() {
		defer close(next)
		for i := range n {
			next <- i
		}
	}()
	var wg sync.WaitGroup
	var once sync.Once
	var first error
	for range workers {
		wg.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					once.Do(func() { first = err })
				}
			}
		})
	}
	wg.Wait()
	return first
}

// plainPod is what the plain loop makes.
func (p *place) plainPod() *corev1.Pod {
	if p.template != nil {
		return p.template.DeepCopy()
	}
	no, yes, user := false, true, int64(999)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "plain-", Namespace: plainSpace, Labels: map[string]string{"app.kubernetes.io/name": "plain"}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: &no, EnableServiceLinks: &no,
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &user},
			Containers: []corev1.Container{{
				Name: "agent", Image: "localhost/plain:1",
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("512Mi")}},
			}},
		},
	}
}

// copyPod has the plain loop make pods like a session's: what a pod is costs the cluster, too.
func (p *place) copyPod(ctx context.Context, id string) error {
	list, err := p.kube.CoreV1().Pods(sessionSpace).List(ctx, metav1.ListOptions{LabelSelector: "agentyard.dev/session=" + id})
	if err != nil || len(list.Items) != 1 {
		return fmt.Errorf("%d pods of a session: %w", len(list.Items), err)
	}
	from := list.Items[0]
	p.template = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "plain-", Namespace: plainSpace, Labels: from.Labels, Annotations: from.Annotations}, Spec: from.Spec}
	p.template.Spec.NodeName = ""
	return nil
}

// plain makes one pod with client-go and waits until it runs.
func (p *place) plain(ctx context.Context, client kubernetes.Interface) (time.Duration, error) {
	began := time.Now()
	made, err := client.CoreV1().Pods(plainSpace).Create(ctx, p.plainPod(), metav1.CreateOptions{})
	if err != nil {
		return 0, err
	}
	at, err := p.nodes.awaitUp(ctx, made.UID)
	return at.Sub(began), err
}

// endPlain removes the plain loop's pods.
func (p *place) endPlain(ctx context.Context) error {
	soon := int64(1)
	err := p.kube.CoreV1().Pods(plainSpace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &soon}, metav1.ListOptions{})
	if err != nil {
		return err
	}
	return wait(ctx, "the plain pods to go", func() bool {
		left, err := p.kube.CoreV1().Pods(plainSpace).List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil && len(left.Items) == 0
	})
}
