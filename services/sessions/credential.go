package sessions

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/seal"
	"agentyard.dev/services/sessions/authfile"
	"agentyard.dev/services/sessions/launch"
)

// maxCredentials bounds one user's stored files.
const maxCredentials = 100

// credentialRecord is an entry of the CREDENTIALS ledger, which keeps the newest only.
type credentialRecord struct {
	api.Credential
	Owner string   `json:"owner"`
	Value seal.Box `json:"value"`
}

// credentialKey names the entry of one file of one user.
func credentialKey(tenant, owner, file string) bus.Key {
	sum := sha256.Sum256([]byte(file))
	return bus.Key{Tenant: tenant, ID: owner + "_" + hex.EncodeToString(sum[:16])}
}

// credentialPlace is what a file's content is bound to.
func credentialPlace(key bus.Key) string { return "credential/" + key.Tenant + "/" + key.ID }

// credentialFiles returns the files that a profile has kept for an agent of a kind.
func credentialFiles(p api.Profile, kind string) []string {
	switch {
	case p.Credentials == nil:
		return nil
	case len(p.Credentials.Files) > 0:
		return p.Credentials.Files
	}
	return authfile.Files(kind)
}

// restore adds the owner's stored files to a launch.
func (s *Service) restore(ctx context.Context, l *launch.Launch, rec api.SessionRecord) error {
	for _, file := range rec.CredentialFiles {
		f := launch.CredentialFile{Path: file}
		e, err := s.stored(ctx, credentialKey(rec.Tenant, rec.Owner, file))
		switch {
		case api.CodeOf(err) == api.CodeNotFound:
		case err != nil:
			return err
		default:
			if f.Data, err = s.keys.Open(credentialPlace(e.Key), e.State.Value); err != nil {
				return fmt.Errorf("open credentials: %w", err)
			}
			f.Version = e.State.Version
		}
		l.CredentialFiles = append(l.CredentialFiles, f)
	}
	return nil
}

// stored returns a file's entry from the view or, if another replica may have just written it, from the bus.
func (s *Service) stored(ctx context.Context, key bus.Key) (bus.Entry[credentialRecord], error) {
	if e, ok := s.credentialView.Get(key); ok && !s.deps.Info.Shared {
		return e, nil
	}
	return s.credentials.Get(ctx, key)
}

// errForgotten says that the owner has deleted the file that a session was given.
var errForgotten = errors.New("forgotten")

// keepCredential keeps what a session's agent made of a file. Made from the version that is stored, it takes its place. Else another
// session was faster, and both are merged, so that of each sign-in in the file the newest stays.
func (s *Service) keepCredential(ctx context.Context, req api.RunnerCredentialRequest) (api.RunnerCredentialResponse, error) {
	var none api.RunnerCredentialResponse
	p, _ := api.PrincipalFrom(ctx)
	rec, ok := s.lookUp(ctx, bus.Key{Tenant: p.Tenant, ID: p.ID})
	if !ok || rec.State.State.Final() || !slices.Contains(rec.State.CredentialFiles, req.File) {
		return none, api.Errorf(api.CodeDenied, "this session keeps no such file")
	}
	if !authfile.Whole(req.File, req.Data) {
		return none, api.Invalid("/data", "is empty, not whole, or larger than %d bytes", authfile.MaxFile)
	}
	e, kept, err := s.writeCredential(ctx, rec.State.Owner, rec.State.ID, req)
	if errors.Is(err, errForgotten) {
		return none, nil
	}
	if err != nil {
		return none, err
	}
	out := api.RunnerCredentialResponse{Version: e.State.Version}
	if !authfile.Same(kept, req.Data) {
		out.Data = kept
	}
	return out, nil
}

// writeCredential stores what req brings, and returns the entry and what it holds.
func (s *Service) writeCredential(ctx context.Context, owner, session string, req api.RunnerCredentialRequest) (bus.Entry[credentialRecord], []byte, error) {
	p, _ := api.PrincipalFrom(ctx)
	key := credentialKey(p.Tenant, owner, req.File)
	var kept []byte
	next := func(old credentialRecord, data []byte) (credentialRecord, error) {
		box, err := s.keys.Seal(credentialPlace(key), data)
		if err != nil {
			return old, fmt.Errorf("seal: %w", err)
		}
		kept = data
		c := api.Credential{File: req.File, Version: old.Version + 1, Session: session, UpdatedAt: s.now().UTC()}
		if at := authfile.Stamp(data); !at.IsZero() {
			c.Stamp = &at
		}
		return credentialRecord{Owner: owner, Credential: c, Value: box}, nil
	}
	meta := bus.Meta{Actor: p.ID, Verb: "refresh"}
	if session == "" {
		meta.Verb = "put"
	} else {
		meta.Actor = "session:" + session
	}
	for range 3 { // made and deleted in turn by others, at worst
		e, err := s.credentials.Update(ctx, key, meta, func(old credentialRecord) (credentialRecord, error) {
			was, err := s.keys.Open(credentialPlace(key), old.Value)
			if err != nil {
				return old, fmt.Errorf("open credentials: %w", err)
			}
			data := req.Data
			if session != "" && old.Version != req.Base {
				data = authfile.Merge(was, req.Data)
			}
			if authfile.Same(data, was) {
				kept = was
				return old, bus.ErrUnchanged
			}
			return next(old, data)
		})
		if api.CodeOf(err) != api.CodeNotFound {
			return e, kept, err
		}
		if req.Base != 0 {
			return e, nil, errForgotten
		}
		if s.credentialView.Len(indexHolder, holderValue(p.Tenant, owner)) >= maxCredentials {
			return e, nil, api.Errorf(api.CodeExhausted, "there are %d stored files, and that is the limit; delete one first", maxCredentials)
		}
		// A later file's versions are never an earlier one's.
		first, err := next(credentialRecord{Credential: api.Credential{Version: uint64(s.now().UnixMilli())}}, req.Data)
		if err != nil {
			return e, nil, err
		}
		if e, err = s.credentials.Create(ctx, key, meta, first); api.CodeOf(err) != api.CodeConflict {
			return e, kept, err
		}
	}
	return bus.Entry[credentialRecord]{}, nil, api.Errorf(api.CodeConflict, "the file was changed by others at the same time; try again")
}

// putCredential stores a file for its owner's sessions, in place of what is there.
func (s *Service) putCredential(ctx context.Context, req api.PutCredentialRequest) (api.Credential, error) {
	p, _ := api.PrincipalFrom(ctx)
	var bad problems
	if !validHomeFile(req.File) {
		bad.Add("/file", "is not a path below the home")
	}
	if !authfile.Whole(req.File, req.Data) {
		bad.Add("/data", "is empty, larger than %d bytes, or not the JSON that the file's name says", authfile.MaxFile)
	}
	if err := bad.Err(); err != nil {
		return api.Credential{}, err
	}
	e, _, err := s.writeCredential(ctx, p.ID, "", api.RunnerCredentialRequest{File: req.File, Data: req.Data})
	if err != nil {
		return api.Credential{}, err
	}
	s.audited(ctx, api.PutCredential.Info(), e.Key)
	return e.State.Credential, nil
}

func (s *Service) listCredentials(ctx context.Context, req api.List) (api.Page[api.Credential], error) {
	page := api.Page[api.Credential]{Items: []api.Credential{}}
	p, _ := api.PrincipalFrom(ctx)
	limit, err := req.Bound()
	if err != nil {
		return page, err
	}
	before, err := api.DecodeCursor(cursorCredentials, req.Cursor)
	if err != nil {
		return page, err
	}
	entries := s.credentialView.List(indexHolder, holderValue(p.Tenant, p.ID), before, limit+1, nil)
	if len(entries) > limit {
		entries = entries[:limit]
		page.NextCursor = api.EncodeCursor(cursorCredentials, entries[limit-1].Created)
	}
	for _, e := range entries {
		page.Items = append(page.Items, e.State.Credential)
	}
	return page, nil
}

// deleteCredential forgets a file. Sessions that were given it go on with theirs, and what they make of it is not kept.
func (s *Service) deleteCredential(ctx context.Context, req api.CredentialRequest) (api.None, error) {
	p, _ := api.PrincipalFrom(ctx)
	key := credentialKey(p.Tenant, p.ID, req.File)
	if _, err := s.credentials.Get(ctx, key); err != nil {
		if api.CodeOf(err) == api.CodeNotFound {
			return api.None{}, api.Errorf(api.CodeNotFound, "no file %q is stored", clip(req.File, maxHomePath))
		}
		return api.None{}, err
	}
	if err := s.credentials.Delete(ctx, key, 0, bus.Meta{Actor: p.ID, Verb: "delete"}); err != nil {
		return api.None{}, err
	}
	s.audited(ctx, api.DeleteCredential.Info(), key)
	return api.None{}, nil
}

// openSecrets opens the ledgers of secrets and credentials. Only the newest of an entry is kept: what was replaced or deleted is gone.
func (s *Service) openSecrets(ctx context.Context) (err error) {
	if s.keys, err = s.sealKeys(); err != nil {
		return err
	}
	if s.secrets, err = bus.OpenLedger[secretRecord](ctx, s.deps.Conn, bus.LedgerConfig{Noun: "secrets", History: 1, Replicas: s.cfg.Replicas}); err != nil {
		return err
	}
	if s.credentials, err = bus.OpenLedger[credentialRecord](ctx, s.deps.Conn, bus.LedgerConfig{Noun: "credentials", History: 1, Replicas: s.cfg.Replicas}); err != nil {
		return err
	}
	s.secretView = s.secrets.View(bus.ViewConfig[secretRecord]{
		Indexes: map[string]func(bus.Entry[secretRecord]) []string{
			indexHolder: func(e bus.Entry[secretRecord]) []string { return []string{holderValue(e.Key.Tenant, e.State.Owner)} },
		},
	})
	s.credentialView = s.credentials.View(bus.ViewConfig[credentialRecord]{
		Indexes: map[string]func(bus.Entry[credentialRecord]) []string{
			indexHolder: func(e bus.Entry[credentialRecord]) []string {
				return []string{holderValue(e.Key.Tenant, e.State.Owner)}
			},
		},
	})
	return nil
}
