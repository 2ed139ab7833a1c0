package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"agentyard.dev/libs/api"
)

// The size of the SSE benchmark and its goals.
const (
	sseSessions       = 200
	sseClients        = 2000
	sseBytesPerClient = 64 << 10
	sseDelivery       = 250 * time.Millisecond
)

// benchSSE opens many event streams, sends each session one message and measures how
// long an event needs from the runner's clock to each client, and what a client costs.
func benchSSE(ctx context.Context, r *report) error {
	y, err := startYard(ctx)
	if err != nil {
		return err
	}
	defer y.stop()
	var ids []string
	for range sseSessions {
		s, err := y.session(ctx)
		if err != nil {
			return fmt.Errorf("session %d of %d: %w", len(ids)+1, sseSessions, err)
		}
		ids = append(ids, s.ID)
	}
	before, err := y.resident()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		mu         sync.Mutex
		deliveries []time.Duration
		clients    sync.WaitGroup
		answered   sync.WaitGroup
		failed     = make(chan error, sseClients)
	)
	opened := make(chan struct{}, sseClients)
	for i := range sseClients {
		clients.Add(1)
		answered.Add(1)
		go func() {
			defer clients.Done()
			answeredOnce := sync.OnceFunc(answered.Done)
			defer answeredOnce()
			seenFirst := false
			err := y.events(ctx, ids[i%sseSessions], "", func(ev api.Event) bool {
				if !seenFirst {
					seenFirst = true
					opened <- struct{}{}
				}
				if ev.Type == api.EventAgentMessage {
					mu.Lock()
					deliveries = append(deliveries, time.Since(ev.At))
					mu.Unlock()
					answeredOnce()
				}
				return true
			})
			if err != nil && ctx.Err() == nil {
				failed <- err
			}
		}()
	}
	for range sseClients {
		select {
		case <-opened:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	after, err := y.resident()
	if err != nil {
		return err
	}
	for _, id := range ids { // at a steady 100 messages, 1,000 deliveries, a second
		if err := y.call(ctx, "POST", "/api/v1/sessions/"+id+"/messages", map[string]any{"content": "echo x"}, nil); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	answered.Wait()
	cancel()
	clients.Wait()
	if len(deliveries) != sseClients {
		return fmt.Errorf("%d of %d clients saw the answer", len(deliveries), sseClients)
	}
	perClient := (after - before) / sseClients
	r.add(figure{
		"sse: memory per client (whole process)", fmt.Sprintf("%.1f KiB", float64(perClient)/1024), "2,000 clients, 200 sessions", 0,
		"≤ 64 KiB", perClient <= sseBytesPerClient,
	})
	p99 := percentile(deliveries, 99)
	r.add(figure{"sse: delivery p99", ms(p99), "p50 " + ms(median(deliveries)), 0, "≤ 250 ms", p99 <= sseDelivery})
	return nil
}

// resident returns the yard process's resident memory in bytes.
func (y *yard) resident() (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", y.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no VmRSS for process %d", y.cmd.Process.Pid)
}
