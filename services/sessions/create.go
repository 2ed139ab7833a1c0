package sessions

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

const (
	// waitRunning is how long a create with wait=running waits at most, as the API says.
	waitRunning = 120 * time.Second
	// createTimeout leaves room for the writes before and after the wait.
	createTimeout = waitRunning + 20*time.Second
	// writeTimeout bounds the writes of one operation, which has no deadline of its own when it may wait.
	writeTimeout = 15 * time.Second
	// maxFirst is among how many of a session's first changes a repeated request looks for the one that it was answered with.
	maxFirst = 64
)

// create writes a pending session and its first message; the reconciler does the rest. Errors: invalid with every field
// that is wrong, denied for a profile that is not for the caller, exhausted for a quota, conflict for an idempotency key that was used for
// another request.
func (s *Service) create(ctx context.Context, req api.CreateSessionRequest) (api.Session, error) {
	p, ok := api.PrincipalFrom(ctx)
	if !ok {
		return api.Session{}, api.Errorf(api.CodeUnauthenticated, "no credential")
	}
	work, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	id := api.NewID(api.KindSession)
	hash := ""
	if req.IdempotencyKey != "" {
		if len(req.IdempotencyKey) > maxKey {
			return api.Session{}, api.Invalid("/idempotency_key", "must be at most %d bytes", maxKey)
		}
		id = api.DeriveID(api.KindSession, p.Tenant, p.ID, req.IdempotencyKey)
		hash = hashRequest(req)
		if e, ok := s.view.Get(bus.Key{Tenant: p.Tenant, ID: id}); ok {
			return s.repeated(ctx, e, req, hash)
		}
	}
	rec, err := s.prepare(work, p, req)
	if err != nil {
		return api.Session{}, err
	}
	rec.ID, rec.RequestHash = id, hash
	key := bus.Key{Tenant: p.Tenant, ID: id}
	if err := s.crowded(); err != nil {
		return api.Session{}, err
	}
	release, err := s.quotas.admit(key, p.ID)
	if err != nil {
		return api.Session{}, err
	}
	e, err := s.sessions.Create(work, key, bus.Meta{Actor: p.ID, Verb: "create"}, rec)
	release()
	if api.CodeOf(err) == api.CodeConflict && hash != "" { // the same request is being answered at the same time
		if e, err = s.sessions.Get(work, key); err == nil {
			return s.repeated(ctx, e, req, hash)
		}
	}
	if err != nil {
		return api.Session{}, err
	}
	return s.created(ctx, e, req)
}

// repeated answers a create request that was made before.
func (s *Service) repeated(ctx context.Context, e bus.Entry[api.SessionRecord], req api.CreateSessionRequest, hash string) (api.Session, error) {
	if e.State.RequestHash != hash {
		return api.Session{}, api.Errorf(api.CodeConflict, "this idempotency key was used for another request")
	}
	now, err := s.created(ctx, e, req) // the first answer may have been lost before the prompt was written
	if err != nil {
		return api.Session{}, err
	}
	return s.firstAnswer(ctx, e.Key, req, now)
}

// firstAnswer returns what the first of equal requests was answered, which the history tells, whatever became of the session since. Where the
// history does not go back so far it is the session as it is now.
func (s *Service) firstAnswer(ctx context.Context, key bus.Key, req api.CreateSessionRequest, now api.Session) (api.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	changes, err := s.sessions.History(ctx, key, 0, maxFirst)
	if err != nil {
		return api.Session{}, err
	}
	for _, c := range changes {
		if c.Verb != "create" && c.Rev == changes[0].Rev {
			break // the beginning is no longer kept
		}
		if req.Wait == "" || cameUp(c.State.State) {
			return public(bus.Entry[api.SessionRecord]{Key: key, Change: c}), nil
		}
	}
	return now, nil
}

// created writes the first message and waits if asked to.
func (s *Service) created(ctx context.Context, e bus.Entry[api.SessionRecord], req api.CreateSessionRequest) (api.Session, error) {
	if req.Prompt != "" {
		work, cancel := context.WithTimeout(ctx, writeTimeout)
		defer cancel()
		id := api.DeriveID(api.KindMessage, e.Key.Tenant, e.Key.ID, "prompt")
		if e.Rev == e.Created {
			s.events.Begin(e.Key.Tenant, e.Key.ID)
		}
		_, _, err := s.events.AppendUser(work, e.Key.Tenant, e.Key.ID, id, api.Event{
			Type: api.EventUserMessage, At: s.now().UTC(), Actor: e.State.Owner, MessageID: id, Content: req.Prompt,
			TraceParent: traceParent(ctx),
		})
		if err != nil {
			return api.Session{}, err
		}
	}
	if req.Wait != string(api.StateRunning) {
		return public(e), nil
	}
	wait, cancel := context.WithTimeout(ctx, waitRunning)
	defer cancel()
	now, err := s.view.Wait(wait, e.Key, func(now bus.Entry[api.SessionRecord]) bool { return cameUp(now.State.State) })
	if err != nil { // it takes longer: the answer is the session as it is
		if now, ok := s.view.Get(e.Key); ok {
			return public(now), nil
		}
		return public(e), nil
	}
	return public(now), nil
}

// cameUp reports whether a request that waits for the session to run waits no longer.
func cameUp(s api.State) bool {
	return s == api.StateRunning || s == api.StateStopping || s.Final()
}

// prepare checks a request and returns the record that it asks for.
func (s *Service) prepare(ctx context.Context, p api.Principal, req api.CreateSessionRequest) (api.SessionRecord, error) {
	var bad problems
	bad.Line("/title", req.Title, maxTitle)
	if len(req.Prompt) > maxPrompt {
		bad.Add("/prompt", "must be at most %d bytes", maxPrompt)
	}
	bad.labels("/labels", req.Labels)
	bad.env("/env", req.Env)
	bad.duration("/ttl", req.TTL)
	bad.duration("/idle_timeout", req.IdleTimeout)
	bad.repository(ctx, "/repository", req.Repository, s.deps.CheckURL)
	if req.Wait != "" && req.Wait != string(api.StateRunning) {
		bad.Add("/wait", `must be "running" or empty`)
	}
	if req.Agent != nil {
		bad.agent("/agent", *req.Agent, s.deps.Kind)
	}
	name := req.Profile
	if name == "" {
		name = defaultProfile
	}
	profile, err := s.profile(ctx, p.Tenant, name)
	switch {
	case err != nil && api.CodeOf(err) != api.CodeNotFound:
		return api.SessionRecord{}, err
	case err != nil:
		bad.Add("/profile", "there is no profile %q", clip(name, 40))
	case mayUse(p, profile) != nil:
		return api.SessionRecord{}, mayUse(p, profile)
	default:
		if lacks := s.deps.Info.Lacks(profile.Isolation); len(lacks) > 0 {
			bad.Add("/profile", "%q demands isolation that the %s runtime cannot give here: %s", name, s.deps.Info.Name, strings.Join(lacks, ", "))
		}
	}
	agent := profile.Agent
	if req.Agent != nil {
		agent = mergeAgent(agent, *req.Agent)
	}
	if err == nil {
		bad.Command("/agent", agent)
		if err := s.satisfied(ctx, &bad, "/profile", p, profile); err != nil {
			return api.SessionRecord{}, err
		}
	}
	if err := bad.Err(); err != nil {
		return api.SessionRecord{}, err
	}
	furnished, err := s.furnished(ctx, p.Tenant, p.ID, profile)
	if err != nil {
		return api.SessionRecord{}, err
	}
	now := s.now().UTC()
	env := maps.Clone(profile.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, req.Env)
	return api.SessionRecord{
		Session: api.Session{
			Tenant: p.Tenant, Owner: p.ID, Title: req.Title, Profile: name, Agent: agent, State: api.StatePending,
			Runtime: s.deps.Info.Name, Node: s.deps.Info.Node, Isolation: s.deps.Info.Isolation(),
			Repository: req.Repository, Labels: req.Labels, CreatedAt: now, LastActiveAt: now,
			TTL:         firstDuration(req.TTL, profile.TTL, api.Duration(s.cfg.TTL)),
			IdleTimeout: firstDuration(req.IdleTimeout, profile.IdleTimeout, api.Duration(s.cfg.IdleTimeout)),
		},
		Env: env, StateSince: now, Demand: profile.Isolation, Resources: profile.Resources, Image: profile.Image, Pod: profile.Pod, IdleAction: profile.IdleAction,
		Secrets: profile.Secrets, MCPServers: profile.MCPServers, CredentialFiles: credentialFiles(profile, agent.Kind),
		Furnished: furnished,
	}, nil
}

// mergeAgent returns the profile's agent with what the request says in its place. Another kind has nothing of the
// profile's command.
func mergeAgent(base, over api.Agent) api.Agent {
	if over.Kind == "" && len(over.Command) > 0 && base.Kind == "demo" {
		over.Kind = "custom" // a command instead of the built-in demo is a program of the caller's own
	}
	if over.Kind != "" && over.Kind != base.Kind {
		base = api.Agent{Kind: over.Kind}
	}
	if len(over.Command) > 0 {
		base.Command = over.Command
	}
	if len(over.Args) > 0 {
		base.Args = over.Args
	}
	return base
}

func firstDuration(ds ...api.Duration) api.Duration {
	for _, d := range ds {
		if d != 0 {
			return d
		}
	}
	return 0
}

// hashRequest tells one create request from another. Whether it waits is no part of what it asks for.
func hashRequest(req api.CreateSessionRequest) string {
	req.Wait, req.IdempotencyKey = "", ""
	data, err := json.Marshal(req) // maps are in order
	if err != nil {
		return "" // cannot happen: it came as JSON
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}

func joinRoles(roles []api.Role) string {
	names := make([]string, 0, len(roles))
	for _, r := range roles {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}
