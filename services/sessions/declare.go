package sessions

import (
	"bytes"
	"context"
	"encoding/json"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/trust"
)

// Declarations are sessions and profiles that somebody declares elsewhere than by the API, as objects of a cluster
// (kube/declare), and wants to be so.
type Declarations interface {
	// Follow makes what is declared so, until ctx ends. Of the replicas that share a runtime the one that reconciles calls it.
	Follow(ctx context.Context, s *Service)
	// Changed tells, on every replica, of a change of a session. It must not block.
	Changed(tenant, session string)
}

// Declaration says in whose name something is declared, and by what: Key is the same for ever for one thing that is declared, and
// never another's.
type Declaration struct {
	Tenant string
	User   string // a user's id
	Key    string
}

// SessionID is the id of the session that d declares, whether there is one or not. It follows from the user, so that nobody
// declares another's session.
func (d Declaration) SessionID() string {
	return api.DeriveID(api.KindSession, d.Tenant, d.User, d.Key)
}

// DeclareSession makes the session of d as a create request of its user, with the same checks and quotas, unless it is there; then it brings
// title, labels and limits, where req has any, to what req says. made says that it was there before: it is not made a second time.
// Errors are those of the API's create and update, and not_found for one that was made and whose history has ended since.
func (s *Service) DeclareSession(ctx context.Context, d Declaration, made bool, req api.CreateSessionRequest) (api.Session, error) {
	e, err := s.declared(ctx, d)
	switch {
	case err == nil && e.State.State.Final():
		return public(e), nil
	case err == nil:
		change, differs := drift(e.State, req)
		if !differs {
			return public(e), nil
		}
		if ctx, err = s.onBehalf(ctx, d, api.UpdateSession.Info()); err != nil {
			return public(e), err
		}
		change.ID = e.Key.ID
		out, err := s.update(ctx, change)
		if err != nil {
			return public(e), err
		}
		return out, nil
	case api.CodeOf(err) != api.CodeNotFound || made:
		return api.Session{}, err
	}
	if ctx, err = s.onBehalf(ctx, d, api.CreateSession.Info()); err != nil {
		return api.Session{}, err
	}
	req.IdempotencyKey, req.Wait = d.Key, ""
	return s.create(ctx, req)
}

// WithdrawSession ends the session of d, if there is one, and reports whether it has ended. What was declared may always be withdrawn: a user
// who is disabled by now leaves nothing running.
func (s *Service) WithdrawSession(ctx context.Context, d Declaration) (now api.Session, ended bool, err error) {
	e, err := s.declared(ctx, d)
	switch {
	case api.CodeOf(err) == api.CodeNotFound:
		return api.Session{}, true, nil
	case err != nil:
		return api.Session{}, false, err
	}
	meta := bus.Meta{Actor: d.User, Verb: "delete", Reason: "its declaration was withdrawn"}
	if e, err = s.finish(ctx, e.Key, 0, meta); err != nil {
		return public(e), false, err
	}
	return public(e), e.State.State.Final(), nil
}

// declared returns the session of d, or not_found.
func (s *Service) declared(ctx context.Context, d Declaration) (bus.Entry[api.SessionRecord], error) {
	key := bus.Key{Tenant: d.Tenant, ID: d.SessionID()}
	if e, ok := s.view.Get(key); ok {
		return e, nil
	}
	return s.sessions.Get(ctx, key)
}

// drift returns what an update has to change so that a session is as req says. What req leaves out stays as it is.
func drift(rec api.SessionRecord, req api.CreateSessionRequest) (change api.UpdateSessionRequest, differs bool) {
	if req.Title != "" && req.Title != rec.Title {
		change.Title, differs = &req.Title, true
	}
	if req.TTL != 0 && req.TTL != rec.TTL {
		change.TTL, differs = &req.TTL, true
	}
	if req.IdleTimeout != 0 && req.IdleTimeout != rec.IdleTimeout {
		change.IdleTimeout, differs = &req.IdleTimeout, true
	}
	for k, v := range req.Labels {
		if rec.Labels[k] != v {
			change.Labels, differs = &req.Labels, true
		}
	}
	return change, differs
}

// DeclareProfile makes the profile of d's tenant, or brings it to what p says. made says that this declaration made it before. Without, a
// profile of that name that says something else is somebody else's: conflict.
func (s *Service) DeclareProfile(ctx context.Context, d Declaration, made bool, p api.Profile) (api.Profile, error) {
	ctx, err := s.onBehalf(ctx, d, api.UpdateProfile.Info())
	if err != nil {
		return api.Profile{}, err
	}
	e, err := s.profiles.Get(ctx, bus.Key{Tenant: d.Tenant, ID: p.Name})
	switch {
	case api.CodeOf(err) == api.CodeNotFound && p.Name != defaultProfile:
		return s.createProfile(ctx, p)
	case api.CodeOf(err) == api.CodeNotFound: // the built-in one is replaced
	case err != nil:
		return api.Profile{}, err
	case sameProfile(e.State, p):
		return publicProfile(e), nil
	case !made:
		return api.Profile{}, api.Errorf(api.CodeConflict, "there is a profile %q already that is not this one; delete it, or choose another name", p.Name)
	}
	return s.updateProfile(ctx, api.UpdateProfileRequest{Name: p.Name, Profile: p})
}

// WithdrawProfile removes the profile that DeclareProfile made. One that this declaration did not make, or that its user may not remove, stays.
func (s *Service) WithdrawProfile(ctx context.Context, d Declaration, made bool, p api.Profile) error {
	ctx, err := s.onBehalf(ctx, d, api.DeleteProfile.Info())
	switch {
	case api.CodeOf(err) == api.CodeDenied:
		return nil
	case err != nil:
		return err
	}
	e, err := s.profiles.Get(ctx, bus.Key{Tenant: d.Tenant, ID: p.Name})
	if err == nil && (made || sameProfile(e.State, p)) { // made, perhaps, and not written down before its maker died
		_, err = s.deleteProfile(ctx, api.NameRef{Name: p.Name})
	}
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	}
	return err
}

// sameProfile compares what two profiles say; an empty list says the same as none.
func sameProfile(a, b api.Profile) bool {
	a.Rev, b.Rev = 0, 0
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// onBehalf returns a context in which d's user asks op. Nobody signed in: who may declare is the cluster's to say, and in whose name the
// operator's. So what a token would say is read from the ledgers of which tokens are made, at this moment: denied for who may not
// sign in now, or whose roles lack op's permission.
func (s *Service) onBehalf(ctx context.Context, d Declaration, op api.OpInfo) (context.Context, error) {
	if !api.ValidName(d.Tenant) || !api.ValidID(api.KindUser, d.User) {
		return nil, api.Errorf(api.CodeDenied, "%q is no user's id", clip(d.Tenant+"/"+d.User, 80))
	}
	p, err := trust.UserNow(ctx, s.deps.Conn, d.Tenant, d.User)
	if err != nil {
		return nil, err
	}
	if !p.Can(op.Permission) {
		return nil, api.Errorf(api.CodeDenied, "the user %s lacks the permission %s", d.User, op.Permission)
	}
	return api.WithPrincipal(ctx, p), nil
}
