package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
)

const (
	manySeeders = 32
	manyRest    = 60 * time.Second // how long the manager is watched at rest: three comparisons of everything
	manyLists   = 200
)

// benchMany measures what sessions cost that only run: the manager's memory and processor time, and lists. They are seeded while no manager runs, each a pod and a
// record as one that was started, and the manager adopts them.
func benchMany(ctx context.Context, p *place, r *report) error {
	many := func(what string) string { return fmt.Sprintf("kube: %d sessions, %s", p.many, what) }
	empty, err := p.stats(ctx)
	if err != nil {
		return err
	}
	p.manager.stop()
	if err := p.seed(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := p.startManager(ctx); err != nil {
		return err
	}
	if err := wait(ctx, "all to be listed", func() bool {
		page, err := rpc.Call(p.admin, p.client, api.ListSessions, api.ListSessionsRequest{List: api.List{Limit: 1}})
		return err == nil && len(page.Items) == 1
	}); err != nil {
		return err
	}
	r.add(figure{name: many("start until it answers"), ours: ms(time.Since(began)), reference: "a process that begins"})
	settled, err := p.stats(ctx)
	if err != nil {
		return err
	}
	recorded := p.record(ctx, "many", int(manyRest/time.Second))
	var lists []time.Duration
	cursor := ""
	for range manyLists {
		at := time.Now()
		page, err := rpc.Call(p.admin, p.client, api.ListSessions, api.ListSessionsRequest{List: api.List{Limit: 50, Cursor: cursor}})
		if err != nil {
			return err
		}
		lists, cursor = append(lists, time.Since(at)), page.NextCursor
	}
	r.add(figure{
		name: many("a list of 50, p50"), ours: ms(median(lists)), reference: "p99 " + ms(percentile(lists, 99)), goal: "≤ 10 ms", held: median(lists) <= 10*time.Millisecond,
	})
	rest, err := p.stats(ctx)
	if err != nil {
		return err
	}
	select {
	case <-time.After(manyRest):
	case <-ctx.Done():
		return ctx.Err()
	}
	recorded()
	after, err := p.stats(ctx)
	if err != nil {
		return err
	}
	busy := float64(after.CPU-rest.CPU) / float64(manyRest)
	r.add(figure{
		name: many("reconciling at rest"), ours: fmt.Sprintf("%.2f %% of a core", 100*busy),
		reference: fmt.Sprintf("%d writes, %d reads in %s", total(after.Writes)-total(settled.Writes), after.Reads-rest.Reads, manyRest),
		goal:      "≤ 2 %, no write", held: busy <= 0.02 && total(after.Writes) == total(settled.Writes),
	})
	each := float64(after.Heap-empty.Heap) / float64(p.many) / 1024
	r.add(figure{
		name: many("the manager's memory"), ours: fmt.Sprintf("%d MiB", p.manager.rss()>>20), reference: fmt.Sprintf("heap %d MiB, %.1f KiB a session", after.Heap>>20, each),
		goal: "≤ 10 KiB a session", held: each <= 10,
	})
	return nil
}

// seed writes the sessions' records and makes their pods.
func (p *place) seed(ctx context.Context) error {
	ring, err := p.order.keyring()
	if err != nil {
		return err
	}
	conn, err := p.order.connect(ring, "sessions", discard)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	ledger := bus.ReadLedger[api.SessionRecord](conn, "sessions")
	who := api.NewID(api.KindUser)
	return each(p.many, manySeeders, func(i int) error {
		id := api.NewID(api.KindSession)
		pod := p.plainPod()
		pod.GenerateName, pod.Name, pod.Namespace = "", id+"-1", sessionSpace
		pod.Spec.NodeName = "simulated" + strconv.Itoa(i%nodeCount+1)
		pod.Labels = map[string]string{
			"app.kubernetes.io/name": "agentyard-session", "app.kubernetes.io/instance": "agentyard", "app.kubernetes.io/managed-by": "agentyard-sessions",
			"agentyard.dev/session": id, "agentyard.dev/tenant": api.HomeTenant, "agentyard.dev/incarnation": "1", "agentyard.dev/pod": api.NewID(api.KindSession),
			"agentyard.dev/profile": "default",
		}
		made, err := p.kube.CoreV1().Pods(sessionSpace).Create(ctx, pod, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		if _, err := p.nodes.awaitUp(ctx, made.UID); err != nil {
			return err
		}
		now := time.Now().UTC()
		rec := api.SessionRecord{
			Session: api.Session{
				ID: id, Tenant: api.HomeTenant, Owner: who, Title: "seeded", Profile: "default", Agent: api.Agent{Kind: "demo"}, State: api.StateRunning, Activity: api.ActivityIdle,
				Runtime: "kube", Node: pod.Spec.NodeName, CreatedAt: now, StartedAt: &now, LastActiveAt: now,
			},
			Incarnation: 1, BoundTo: string(made.UID), StateSince: now, Endpoint: "http://192.0.2.1:9000",
		}
		_, err = ledger.Create(ctx, bus.Key{Tenant: rec.Tenant, ID: id}, bus.Meta{Actor: "bench", Verb: "create"}, rec)
		return err
	})
}
