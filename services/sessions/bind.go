package sessions

import (
	"context"
	"encoding/json"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/services/sessions/launch"
)

// bindTimeout bounds one binding, with the wait of a pod that is no session's yet.
const bindTimeout = 25 * time.Second

// bind tells a pod its launch, once. That it is told is written down before, with the pod's UID: whoever asks again with the same
// credential, another pod or another replica, learns nothing; and whoever listens with it does not either, for the answer is sealed to the pod that asked. If the answer is lost, so is the pod, and the next incarnation follows.
func (s *Service) bind(ctx context.Context, req api.RunnerBindRequest) (api.RunnerBindResponse, error) {
	var none api.RunnerBindResponse
	binder, ok := s.deps.Runtime.(LateBinder)
	p, _ := api.PrincipalFrom(ctx)
	if !ok || p.Tenant != api.PodTenant || req.UID == "" {
		return none, api.Errorf(api.CodeDenied, "only a pod asks to be bound")
	}
	var sealer *launch.Sealer
	if len(req.Key) > 0 {
		to, err := launch.NewSealer(req.Key)
		if err != nil {
			return none, err
		}
		sealer = &to
	}
	at, err := binder.Identify(ctx, p.ID, req)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout) // from here on all of it happens, though the service stops
	defer cancel()
	key := bus.Key{Tenant: at.Tenant, ID: at.Session}
	meta := bus.Meta{Actor: actor, Verb: "bind", Reason: "pod " + req.Pod}
	e, err := s.sessions.Update(ctx, key, meta, func(rec api.SessionRecord) (api.SessionRecord, error) {
		switch {
		case rec.Incarnation != at.Incarnation || !wantsRunner(rec.State):
			return rec, api.Errorf(api.CodeConflict, "this pod is wanted no more")
		case rec.BoundTo != "":
			return rec, api.Errorf(api.CodeConflict, "the launch was told before")
		}
		rec.BoundTo, rec.Node = req.UID, at.Node
		return rec, nil
	})
	if err != nil {
		return none, err
	}
	l, err := s.launchOf(ctx, e, true)
	if err != nil {
		return none, err
	}
	binder.Place(&l)
	text, err := json.Marshal(l)
	if err != nil {
		return none, api.Errorf(api.CodeInternal, "encode launch: %w", err)
	}
	s.log.Info("bound", "tenant", key.Tenant, "session", key.ID, "node", at.Node, "incarnation", at.Incarnation)
	if sealer == nil { // a runner of an earlier release
		return api.RunnerBindResponse{Launch: text}, nil
	}
	sealed, err := sealer.Seal(p.ID, req.UID, text)
	return api.RunnerBindResponse{Sealed: sealed}, err
}

// launchOf returns what the current incarnation's runner is told, but for where it works; for a place that waits for its runner to ask, without
// its credential. It fails with invalid when the session's profile names what is not there.
func (s *Service) launchOf(ctx context.Context, e bus.Entry[api.SessionRecord], credential bool) (launch.Launch, error) {
	rec := e.State
	var credentials []byte
	if credential {
		var err error
		if credentials, err = s.deps.Issuer.Credentials(e.Key.Tenant, e.Key.ID); err != nil {
			return launch.Launch{}, api.Errorf(api.CodeInternal, "mint credentials: %w", err)
		}
	}
	l := launch.Launch{
		Tenant: e.Key.Tenant, Session: e.Key.ID, Incarnation: rec.Incarnation,
		BusURL: s.deps.BusURL, Credentials: credentials,
		Agent: api.Agent{Kind: rec.Agent.Kind, Command: rec.Agent.Command, Args: rec.Agent.Args}, Env: rec.Env,
		Repository:       rec.Repository,
		RepositoryPolicy: launch.RepositoryPolicy{AllowPrivate: s.cfg.AllowPrivateRepositories},
		EndpointKey:      rec.EndpointKey,
		Sandbox:          launch.Sandbox{Isolation: rec.Demand, Resources: rec.Resources},
		Pod:              launch.Pod{Profile: rec.Profile, Image: rec.Image, Pod: rec.Pod, SessionLabels: rec.Labels},
	}
	return l, s.furnish(ctx, &l, rec)
}
