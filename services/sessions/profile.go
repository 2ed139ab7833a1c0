package sessions

import (
	"context"
	"reflect"
	"slices"
	"strings"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/services/sessions/sandbox"
)

// defaultProfile is the profile of a request that names none. Every tenant has it; an entry of the ledger replaces what is built in.
const defaultProfile = "default"

const (
	maxProfiles    = 1000 // of one tenant: lists of them are made in memory
	maxDescription = 2000
)

func builtinProfile() api.Profile {
	return api.Profile{Name: defaultProfile, Description: "The built-in demo agent, which needs no account.", Agent: api.Agent{Kind: "demo"}}
}

// profile returns a tenant's profile or not_found.
func (s *Service) profile(ctx context.Context, tenant, name string) (api.Profile, error) {
	key := bus.Key{Tenant: tenant, ID: name}
	valid := api.ValidName(name)
	if e, ok := s.byName.Get(key); valid && ok {
		return publicProfile(e), nil
	}
	if name == defaultProfile {
		return builtinProfile(), nil
	}
	if valid { // another replica may have made it just now
		e, err := s.profiles.Get(ctx, key)
		if err == nil {
			return publicProfile(e), nil
		}
		if api.CodeOf(err) != api.CodeNotFound {
			return api.Profile{}, err
		}
	}
	return api.Profile{}, api.Errorf(api.CodeNotFound, "there is no profile %q", clip(name, 40))
}

func publicProfile(e bus.Entry[api.Profile]) api.Profile {
	p := e.State
	p.Rev = e.Rev
	return p
}

// checkProfile returns an invalid error that blames every field that is wrong. prefix is where the profile stands in the request.
func (s *Service) checkProfile(prefix string, p api.Profile) error {
	var bad problems
	if !api.ValidName(p.Name) {
		bad.Add(prefix+"/name", "must be 1 to 40 of a–z, 0–9 and '-'")
	}
	if len(p.Description) > maxDescription {
		bad.Add(prefix+"/description", "must be at most %d bytes", maxDescription)
	}
	if p.Agent.Kind == "" {
		bad.Add(prefix+"/agent/kind", "is required")
	}
	bad.agent(prefix+"/agent", p.Agent, s.deps.Kind)
	bad.Command(prefix+"/agent", p.Agent)
	bad.env(prefix+"/env", p.Env)
	bad.furniture(prefix, p)
	_, pools := s.deps.Runtime.(Pooler)
	bad.pool(prefix+"/pool", p.Pool, pools)
	if p.Pool != nil && p.Pod.Volume != nil {
		bad.Add(prefix+"/pool", "sessions with a volume of their own cannot be ready before there is a session: leave out pod.volume or the pool")
	}
	bad.resources(prefix+"/resources", p.Resources)
	bad.pod(prefix, p.Image, p.Pod)
	if !s.deps.Info.Pods && (p.Image != "" || !reflect.DeepEqual(p.Pod, api.Pod{})) {
		bad.Add(prefix+"/image", "the %s runtime makes no pods: leave out image and pod", s.deps.Info.Name)
	}
	if refuses := s.deps.Info.Refuses; refuses != nil && bad.Err() == nil {
		if why := refuses(p.Pod); why != "" {
			bad.Add(prefix+"/pod", "%s", why)
		}
	}
	bad.duration(prefix+"/ttl", p.TTL)
	bad.duration(prefix+"/idle_timeout", p.IdleTimeout)
	if p.IdleAction != "" && p.IdleAction != api.IdlePause && p.IdleAction != api.IdleStop {
		bad.Add(prefix+"/idle_action", "must be %q or %q", api.IdlePause, api.IdleStop)
	}
	known := true
	for _, name := range p.Isolation {
		if !slices.Contains(sandbox.Known, name) {
			known = false
			bad.Add(prefix+"/isolation", "%q is not one of %s", clip(name, 40), strings.Join(sandbox.Known, ", "))
		}
	}
	if lacks := s.deps.Info.Lacks(p.Isolation); known && len(lacks) > 0 {
		bad.Add(prefix+"/isolation", "the %s runtime cannot give here: %s", s.deps.Info.Name, strings.Join(lacks, ", "))
	}
	for _, r := range p.Roles {
		if !r.Known() {
			bad.Add(prefix+"/roles", "%q is no role", clip(string(r), 40))
		}
	}
	return bad.Err()
}

func (s *Service) createProfile(ctx context.Context, req api.Profile) (api.Profile, error) {
	p, _ := api.PrincipalFrom(ctx)
	if err := s.checkProfile("", req); err != nil {
		return api.Profile{}, err
	}
	if req.Name == defaultProfile {
		return api.Profile{}, api.Errorf(api.CodeConflict, "the profile %q exists: replace it with PUT", defaultProfile)
	}
	if s.byName.Len(indexTenant, p.Tenant) >= maxProfiles {
		return api.Profile{}, api.Errorf(api.CodeExhausted, "there are %d profiles, and that is the limit; delete one first", maxProfiles)
	}
	req.Rev = 0
	e, err := s.profiles.Create(ctx, bus.Key{Tenant: p.Tenant, ID: req.Name}, bus.Meta{Actor: p.ID, Verb: "create"}, req)
	if err != nil {
		return api.Profile{}, err
	}
	return publicProfile(e), nil
}

func (s *Service) listProfiles(ctx context.Context, req api.List) (api.Page[api.Profile], error) {
	page := api.Page[api.Profile]{Items: []api.Profile{}}
	p, _ := api.PrincipalFrom(ctx)
	limit, err := req.Bound()
	if err != nil {
		return page, err
	}
	before, err := api.DecodeCursor(cursorProfiles, req.Cursor)
	if err != nil {
		return page, err
	}
	entries := s.byName.List(indexTenant, p.Tenant, before, limit+1, nil)
	if len(entries) > limit {
		entries = entries[:limit]
		page.NextCursor = api.EncodeCursor(cursorProfiles, entries[limit-1].Created)
	}
	for _, e := range entries {
		page.Items = append(page.Items, publicProfile(e))
	}
	// The built-in one ends the last page.
	if _, replaced := s.byName.Get(bus.Key{Tenant: p.Tenant, ID: defaultProfile}); !replaced && page.NextCursor == "" {
		page.Items = append(page.Items, builtinProfile())
	}
	return page, nil
}

func (s *Service) getProfile(ctx context.Context, req api.NameRef) (api.Profile, error) {
	p, _ := api.PrincipalFrom(ctx)
	return s.profile(ctx, p.Tenant, req.Name)
}

// updateProfile replaces a profile. Its sessions keep what they were created with.
func (s *Service) updateProfile(ctx context.Context, req api.UpdateProfileRequest) (api.Profile, error) {
	p, _ := api.PrincipalFrom(ctx)
	if req.Profile.Name == "" {
		req.Profile.Name = req.Name
	}
	if req.Profile.Name != req.Name {
		return api.Profile{}, api.Invalid("/profile/name", "a profile cannot be renamed")
	}
	if err := s.checkProfile("/profile", req.Profile); err != nil {
		return api.Profile{}, err
	}
	req.Profile.Rev = 0
	key, meta := bus.Key{Tenant: p.Tenant, ID: req.Name}, bus.Meta{Actor: p.ID, Verb: "update"}
	e, err := s.profiles.UpdateAt(ctx, key, req.IfMatch, meta, func(api.Profile) (api.Profile, error) { return req.Profile, nil })
	if api.CodeOf(err) == api.CodeNotFound && req.Name == defaultProfile && req.IfMatch == 0 {
		e, err = s.profiles.Create(ctx, key, meta, req.Profile) // in place of the built-in one
	}
	if err != nil {
		return api.Profile{}, err
	}
	return publicProfile(e), nil
}

// deleteProfile removes a profile; the default one becomes the built-in one again.
func (s *Service) deleteProfile(ctx context.Context, req api.NameRef) (api.None, error) {
	p, _ := api.PrincipalFrom(ctx)
	if _, err := s.profile(ctx, p.Tenant, req.Name); err != nil {
		return api.None{}, err
	}
	return api.None{}, s.profiles.Delete(ctx, bus.Key{Tenant: p.Tenant, ID: req.Name}, req.IfMatch, bus.Meta{Actor: p.ID, Verb: "delete"})
}
