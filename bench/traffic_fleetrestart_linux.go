package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"agentyard.dev/libs/tc"
)

// rest does nothing.
func (f *fleet) rest(ctx context.Context, r *report) error {
	before, err := f.used()
	if err != nil {
		return err
	}
	select {
	case <-time.After(fleetRest):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := f.used()
	if err != nil {
		return err
	}
	f.idle.add(before, after)
	share := func(i int) float64 { return 100 * float64(after[i].processor-before[i].processor) / float64(fleetRest) }
	r.add(figure{
		f.name("controller and bus at rest"), fmt.Sprintf("%.1f %%", share(0)+share(1)), fmt.Sprintf("of a core; bus %.1f %%, agents %.1f %%", share(0), share(2)), 0,
		"≤ 25 %", share(0)+share(1) <= 25,
	})
	return nil
}

// restart kills the bus, and starts it again a while later.
func (f *fleet) restart(ctx context.Context, r *report) error {
	dials, err := dialled()
	if err != nil {
		return err
	}
	f.bus.kill()
	select {
	case <-time.After(fleetAway):
	case <-ctx.Done():
		return ctx.Err()
	}
	if f.bus, err = startPart(ctx, partBus); err != nil {
		return err
	}
	began := time.Now()
	if err := f.serve(ctx, strings.TrimPrefix(f.url, "nats://")); err != nil {
		return err
	}
	served := time.Since(began)
	for {
		a, err := f.agents.do(ctx, fleetOrder{Do: "connected"})
		if err != nil {
			return err
		}
		if a.Count == f.n {
			break
		}
		if time.Since(began) > fleetWait {
			return fmt.Errorf("%d of %d agents are connected %v after the bus was back", a.Count, f.n, fleetWait)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	back := time.Since(began)
	again, err := dialled()
	if err != nil {
		return err
	}
	for f.asker.Ready(ctx) != nil || f.traffic.Ready(ctx) != nil {
		if ctx.Err() != nil {
			return errors.Join(errors.New("the bus is not ready"), ctx.Err())
		}
	}
	took, err := f.apply(ctx, fleetPolicy("all", 8*tc.Mbit), 0, f.n) // less than what the policy for one leaves that one
	if err != nil {
		return fmt.Errorf("after the bus's restart: %w", err)
	}
	use, err := f.bus.used()
	if err != nil {
		return err
	}
	r.add(figure{
		f.name("all back after the bus is killed"), ms(back), fmt.Sprintf("bus serves after %s; %.1f dials an agent", ms(served), float64(again-dials)/float64(f.n)), 0,
		"≤ 30 s", back <= fleetReturn,
	})
	r.add(figure{
		f.name("the next change, p99"), ms(percentile(took, 99)), fmt.Sprintf("bus since its start %s", ms(use.processor)), 0,
		"≤ 5 s", percentile(took, 99) <= 5*time.Second,
	})
	return nil
}

// dialled is how many TCP connections this machine has tried to open.
func dialled() (int, error) {
	data, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "ActiveOpens" {
				return strconv.Atoi(fields[i])
			}
		}
	}
	return 0, errors.New("/proc/net/snmp does not say ActiveOpens")
}
