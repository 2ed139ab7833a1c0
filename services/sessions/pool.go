package sessions

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"
	_ "time/tzdata" // schedules name zones, and images may lack them

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/services/sessions/launch"
)

const (
	maxPool    = 500
	maxWindows = 32
	// poolEvery is how often pools are brought to what they should be; poolTimeout bounds one round.
	poolEvery   = time.Second
	poolTimeout = 30 * time.Second
	// burstWindow is how long a session that was created counts as a sign that more will be.
	burstWindow = 30 * time.Second
)

// Pooler is a LateBinder that keeps runners ready which are no session's yet. Its Start takes one of the session's profile and shape, if one is ready,
// and else makes one. A runner is used once: what a session had is never another's.
type Pooler interface {
	LateBinder
	// SetPool has the runtime make and remove runners until Want are ready or on their way. Those of another shape it replaces. It
	// does not wait for them.
	SetPool(ctx context.Context, p PoolSpec) error
	// Pools returns all pools in which anything is, those that another process has filled too.
	Pools(ctx context.Context) ([]PoolState, error)
}

// PoolSpec is what a profile's pool should be.
type PoolSpec struct {
	Tenant  string
	Profile string
	Want    int // zero: the pool goes
	// Shape is the launch of the profile's sessions as far as it shapes the place of a runner, without a session.
	Shape launch.Launch
}

// PoolState is what a profile's pool is.
type PoolState struct {
	Tenant  string
	Profile string
	Ready   int    // wait for a session
	Coming  int    // are on their way
	Reason  string // what keeps them from being ready, for a person
}

// demand remembers when sessions of profiles with pools were created lately.
type demand struct {
	mu    sync.Mutex
	taken map[bus.Key][]time.Time // by tenant and profile; in order
}

// note adds one, and forgets those that count no more.
func (d *demand) note(key bus.Key, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.taken == nil {
		d.taken = map[bus.Key][]time.Time{}
	}
	d.taken[key] = append(lately(d.taken[key], now), now)
}

// lately returns how many there were within burstWindow.
func (d *demand) lately(key bus.Key, now time.Time) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	rest := lately(d.taken[key], now)
	if len(rest) == 0 {
		delete(d.taken, key)
	} else {
		d.taken[key] = rest
	}
	return len(rest)
}

func lately(times []time.Time, now time.Time) []time.Time {
	i := 0
	for i < len(times) && now.Sub(times[i]) >= burstWindow {
		i++
	}
	return times[i:]
}

// poolWant is pure: how many runners a pool should have ready at now, when so many sessions were created lately. A burst makes it larger by as
// many as were taken, for the next are likely, at most by Burst.
func poolWant(p *api.Pool, taken int, now time.Time) int {
	if p == nil || !scheduled(p, now) {
		return 0
	}
	return p.Size + min(taken, p.Burst)
}

// scheduled reports whether now is in one of a pool's windows.
func scheduled(p *api.Pool, now time.Time) bool {
	if len(p.Schedule) == 0 {
		return true
	}
	zone, err := time.LoadLocation(p.Timezone)
	if err != nil { // cannot happen: it was checked
		return false
	}
	now = now.In(zone)
	minute := now.Hour()*60 + now.Minute()
	for _, w := range p.Schedule {
		from, ferr := clock(w.From)
		to, terr := clock(w.To)
		today, yesterday := on(w, now.Weekday()), on(w, (now.Weekday()+6)%7)
		switch {
		case ferr != nil || terr != nil:
		case from < to && today && minute >= from && minute < to,
			from >= to && today && minute >= from,
			from >= to && yesterday && minute < to:
			return true
		}
	}
	return false
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func on(w api.PoolWindow, d time.Weekday) bool {
	return len(w.Days) == 0 || slices.Contains(w.Days, weekdays[d])
}

// clock returns the minute of the day of a time such as "08:30".
func clock(text string) (int, error) {
	at, err := time.Parse("15:04", text)
	return at.Hour()*60 + at.Minute(), err
}

// pooled reports whether a profile has a pool.
func (s *Service) pooled(key bus.Key) bool {
	e, ok := s.byName.Get(key)
	return ok && e.State.Pool != nil
}

// keepPools brings every profile's pool to what it should be, again and again, until ctx ends. What remains of a profile that has none any more goes.
func (s *Service) keepPools(ctx context.Context) {
	pooler, ok := s.deps.Runtime.(Pooler)
	if !ok {
		return
	}
	tick := time.NewTicker(poolEvery)
	defer tick.Stop()
	failing := false
	for {
		err := s.setPools(ctx, pooler)
		if err != nil && ctx.Err() == nil && !failing {
			s.log.Warn("keep pools", "op", "pool", "code", api.CodeOf(err), "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Service) setPools(ctx context.Context, pooler Pooler) error {
	ctx, cancel := context.WithTimeout(ctx, poolTimeout)
	defer cancel()
	states, err := pooler.Pools(ctx)
	if err != nil {
		return err
	}
	specs := map[bus.Key]PoolSpec{}
	for _, st := range states {
		specs[bus.Key{Tenant: st.Tenant, ID: st.Profile}] = PoolSpec{Tenant: st.Tenant, Profile: st.Profile}
	}
	s.byName.All(func(e bus.Entry[api.Profile]) bool {
		if p := e.State; p.Pool != nil {
			specs[e.Key] = s.poolSpec(e.Key, p)
		}
		return true
	})
	var first error
	for _, spec := range specs {
		if err := pooler.SetPool(ctx, spec); err != nil && first == nil {
			first = err // the others need not wait for it
		}
	}
	return first
}

// poolSpec returns what a profile's pool should be now.
func (s *Service) poolSpec(key bus.Key, p api.Profile) PoolSpec {
	return PoolSpec{
		Tenant: key.Tenant, Profile: key.ID, Want: poolWant(p.Pool, s.demand.lately(key, s.now()), s.now()),
		Shape: launch.Launch{
			Tenant:  key.Tenant,
			Sandbox: launch.Sandbox{Isolation: p.Isolation, Resources: p.Resources},
			Pod:     launch.Pod{Profile: key.ID, Image: p.Image, Pod: p.Pod},
		},
	}
}

// pool shows what has become of a profile's pool.
func (s *Service) pool(ctx context.Context, req api.NameRef) (api.PoolStatus, error) {
	p, _ := api.PrincipalFrom(ctx)
	profile, err := s.profile(ctx, p.Tenant, req.Name)
	if err != nil {
		return api.PoolStatus{}, err
	}
	pooler, ok := s.deps.Runtime.(Pooler)
	if !ok || profile.Pool == nil {
		return api.PoolStatus{Reason: "the profile has no pool"}, nil
	}
	spec := s.poolSpec(bus.Key{Tenant: p.Tenant, ID: profile.Name}, profile)
	out := api.PoolStatus{Want: spec.Want}
	states, err := pooler.Pools(ctx)
	if err != nil {
		return api.PoolStatus{}, err
	}
	for _, st := range states {
		if st.Tenant == p.Tenant && st.Profile == profile.Name {
			out.Ready, out.Coming, out.Reason = st.Ready, st.Coming, st.Reason
		}
	}
	switch {
	case !scheduled(profile.Pool, s.now()):
		out.Reason = "it is outside of the schedule's windows"
	case out.Reason == "" && out.Ready+out.Coming < out.Want && s.deps.Info.PoolHoldup != nil && s.term.Load() == nil: // another replica may know why
		out.Reason = s.deps.Info.PoolHoldup(ctx, spec)
	}
	return out, nil
}

// pool checks a profile's pool.
func (p *problems) pool(pointer string, pool *api.Pool, kept bool) {
	if pool == nil {
		return
	}
	if !kept {
		p.Add(pointer, "the runtime keeps no pools")
		return
	}
	if pool.Size < 0 || pool.Burst < 0 || pool.Size+pool.Burst > maxPool || pool.Size+pool.Burst == 0 {
		p.Add(pointer+"/size", "size and burst must be 1 to %d together", maxPool)
	}
	if _, err := time.LoadLocation(pool.Timezone); err != nil || pool.Timezone == "Local" {
		p.Add(pointer+"/timezone", "there is no time zone %q", clip(pool.Timezone, 40))
	}
	if len(pool.Schedule) > maxWindows {
		p.Add(pointer+"/schedule", "has %d windows; at most %d are allowed", len(pool.Schedule), maxWindows)
		return
	}
	for i, w := range pool.Schedule {
		at := pointer + "/schedule/" + strconv.Itoa(i)
		for field, text := range map[string]string{"/from": w.From, "/to": w.To} {
			if _, err := clock(text); err != nil {
				p.Add(at+field, `must be a time such as "08:30"`)
			}
		}
		for _, d := range w.Days {
			if !slices.Contains(weekdays, d) {
				p.Add(at+"/days", "%q is not one of mon, tue, wed, thu, fri, sat, sun", clip(d, 20))
			}
		}
	}
}
