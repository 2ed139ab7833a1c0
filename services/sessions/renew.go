package sessions

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"agentyard.dev/libs/api"
)

// furnished tells what a session of owner is made from, now: the profile's revision and those of the secrets that it names. Credential files are no part of it, for
// they are brought up to date in sessions that run.
func (s *Service) furnished(ctx context.Context, tenant, owner string, profile api.Profile) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s %d\n", profile.Name, profile.Rev)
	refs := needs(profile)
	for _, r := range profile.Secrets {
		if r.Optional {
			refs = append(refs, r)
		}
	}
	for _, r := range refs {
		e, err := s.sealed(ctx, tenant, owner, r.Scope, r.Name)
		if err != nil && api.CodeOf(err) != api.CodeNotFound {
			return "", err
		}
		fmt.Fprintf(h, "%s %s %d\n", r.Name, e.Key.ID, e.Rev)
	}
	return hex.EncodeToString(h.Sum(nil)[:12]), nil
}

// mayRenew checks that a session may begin anew for p as renew says: a new one would be given the same.
func (s *Service) mayRenew(ctx context.Context, p api.Principal, rec api.SessionRecord, renew api.Renew) error {
	var bad problems
	switch {
	case rec.Repository != nil:
		bad.ref("/renew/ref", renew.Ref)
	case renew.Ref != "":
		bad.Add("/renew/ref", "the session has no repository")
	}
	if err := bad.Err(); err != nil {
		return err
	}
	profile, err := s.profile(ctx, rec.Tenant, rec.Profile)
	if api.CodeOf(err) == api.CodeNotFound {
		return api.Errorf(api.CodeConflict, "the session's profile %q is there no more", rec.Profile)
	}
	if err != nil {
		return err
	}
	if err := mayUse(p, profile); err != nil {
		return err
	}
	now, err := s.furnished(ctx, rec.Tenant, rec.Owner, profile)
	if err != nil {
		return err
	}
	if now != rec.Furnished {
		return api.Errorf(api.CodeConflict, "the session's profile or its secrets have changed since it was made")
	}
	return nil
}

// mayUse refuses who is in none of a profile's roles.
func mayUse(p api.Principal, profile api.Profile) error {
	if len(profile.Roles) == 0 || slices.ContainsFunc(p.Roles, func(r api.Role) bool { return slices.Contains(profile.Roles, r) }) {
		return nil
	}
	return api.Errorf(api.CodeDenied, "the profile %q is for %s only", profile.Name, joinRoles(profile.Roles))
}
