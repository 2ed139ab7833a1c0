package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// The size of the list benchmark.
const (
	listOthers = 50_000
	listOwn    = 20
)

// benchList lists one user's 20 sessions while 50,000 of others are in the same tenant.
// The figure includes the gateway, the bus and HTTP, so it bounds the service's own part
// from above.
func benchList(ctx context.Context, r *report) error {
	y, err := startYard(ctx)
	if err != nil {
		return err
	}
	defer y.stop()
	var made struct {
		ID string `json:"id"`
	}
	if err := y.call(ctx, "POST", "/api/v1/users", map[string]any{"name": "lister", "roles": []string{"member"}}, &made); err != nil {
		return err
	}
	var key struct {
		Secret string `json:"secret"`
	}
	if err := y.call(ctx, "POST", "/api/v1/keys", map[string]any{"name": "bench", "user": made.ID}, &key); err != nil {
		return err
	}
	if err := seed(ctx, y, made.ID); err != nil {
		return err
	}
	member := newTarget("tcp", y.host(), "/api/v1/sessions", http.Header{"Authorization": {"Bearer " + key.Secret}})
	empty := newTarget("tcp", y.host(), "/api/v1/users/me", http.Header{"Authorization": {"Bearer " + key.Secret}})
	var page api.Page[api.Session]
	for deadline := time.Now().Add(30 * time.Second); ; {
		if err := (&yard{url: y.url, key: key.Secret, client: y.client}).call(ctx, "GET", "/api/v1/sessions", nil, &page); err != nil {
			return err
		}
		if len(page.Items) == listOwn {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the list holds %d sessions", len(page.Items))
		}
		time.Sleep(50 * time.Millisecond)
	}
	// In turn, so that whatever else the yard does after the seeding meets both.
	var ours, base []time.Duration
	for range rounds {
		for _, m := range []struct {
			t  target
			to *[]time.Duration
		}{{member, &ours}, {empty, &base}} {
			res, err := m.t.load(ctx, 1, time.Second)
			if err != nil {
				return err
			}
			*m.to = append(*m.to, median(res.latencies))
		}
	}
	in := median(ours) - median(base)
	r.add(figure{
		"list: 20 own among 50,000, in the service", ms(in), "whole request " + ms(median(ours)), 0,
		"≤ 1 ms", in <= time.Millisecond,
	})
	return nil
}

// seed writes ended sessions of others, then the lister's own, straight into the ledger.
func seed(ctx context.Context, y *yard, owner string) error {
	conn, err := y.bus("sessions")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	ledger := bus.ReadLedger[api.SessionRecord](conn, "sessions")
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for w := range 64 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := w; i < listOthers+listOwn; i += 64 {
				s := api.SessionRecord{Session: api.Session{
					ID: api.NewID(api.KindSession), Tenant: api.HomeTenant, Owner: fmt.Sprintf("u%d", i%500), Title: "seeded",
					Profile: "default", State: api.StateTerminated, CreatedAt: time.Now(),
				}}
				if i >= listOthers {
					s.Owner = owner
				}
				if _, err := ledger.Create(ctx, bus.Key{Tenant: s.Tenant, ID: s.ID}, bus.Meta{Actor: "bench", Verb: "create"}, s); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}
