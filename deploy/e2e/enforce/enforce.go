package enforce

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// again is when what could not be applied is tried again; a node may be away.
const again = time.Second

// Run follows the cluster until ctx ends and calls apply with a node's rules whenever they have changed.
func Run(ctx context.Context, client kubernetes.Interface, nodes []string, apply func(ctx context.Context, node, rules string) error) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	pods, namespaces, policies := factory.Core().V1().Pods(), factory.Core().V1().Namespaces(), factory.Networking().V1().NetworkPolicies()
	changed := make(chan struct{}, 1)
	note := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	for _, i := range []cache.SharedIndexInformer{pods.Informer(), namespaces.Informer(), policies.Informer()} {
		if _, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { note() }, UpdateFunc: func(any, any) { note() }, DeleteFunc: func(any) { note() },
		}); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	for what, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return fmt.Errorf("follow %v: %w", what, ctx.Err())
		}
	}
	applied := map[string]string{}
	for {
		var w World
		var err error
		if w.Pods, err = pods.Lister().List(labels.Everything()); err != nil {
			return err
		}
		if w.Namespaces, err = namespaces.Lister().List(labels.Everything()); err != nil {
			return err
		}
		if w.Policies, err = policies.Lister().List(labels.Everything()); err != nil {
			return err
		}
		var retry <-chan time.Time
		for _, node := range nodes {
			rules := w.Rules(node)
			if rules == applied[node] {
				continue
			}
			if err := apply(ctx, node, rules); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				fmt.Printf("enforce: %s: %v\n", node, err)
				retry = time.After(again)
				continue
			}
			applied[node] = rules
		}
		select {
		case <-changed:
		case <-retry:
		case <-ctx.Done():
			return nil
		}
	}
}
