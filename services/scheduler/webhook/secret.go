package webhook

import (
	"context"
	"fmt"
	"slices"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/seal"
)

// record is a webhook as the WEBHOOKS ledger keeps it. It never leaves the scheduler.
type record struct {
	api.Webhook
	// Sealed are the signing secrets beside Webhook.Secrets. Keys are the same in the clear: of a yard that has no key to seal with, and of earlier
	// releases.
	Sealed []seal.Box `json:"sealed,omitempty"`
	Keys   []string   `json:"keys,omitempty"`
	// All says that its owner may read all tasks of the tenant, so that Events are those of all.
	All bool `json:"all,omitempty"`
}

// place is what a webhook's secrets are bound to.
func place(w record) string { return "webhook/" + w.Tenant + "/" + w.Name }

// keep puts signing secrets into w, sealed if there is a key.
func (s *Service) keep(w *record, secrets ...string) error {
	w.Keys, w.Sealed = nil, nil
	if s.deps.Keys == nil {
		w.Keys = secrets
		return nil
	}
	for _, secret := range secrets {
		box, err := s.deps.Keys.Seal(place(*w), []byte(secret))
		if err != nil {
			return fmt.Errorf("seal: %w", err)
		}
		w.Sealed = append(w.Sealed, box)
	}
	return nil
}

// secretsOf returns the signing secrets of w.
func (s *Service) secretsOf(w record) ([]string, error) {
	if len(w.Sealed) == 0 {
		return w.Keys, nil
	}
	if s.deps.Keys == nil {
		return nil, api.Errorf(api.CodeInternal, "the secrets of webhooks are sealed, and this service was given no key")
	}
	var secrets []string
	for _, box := range w.Sealed {
		secret, err := s.deps.Keys.Open(place(w), box)
		if err != nil {
			return nil, fmt.Errorf("open the secret of a webhook: %w", err)
		}
		secrets = append(secrets, string(secret))
	}
	return secrets, nil
}

// activeKeys returns the secrets that sign at a time.
func (s *Service) activeKeys(w record, now time.Time) (keys []string, err error) {
	all, err := s.secretsOf(w)
	for i, secret := range w.Secrets {
		if i < len(all) && (secret.ExpiresAt == nil || now.Before(*secret.ExpiresAt)) {
			keys = append(keys, all[i])
		}
	}
	return keys, err
}

// seal seals what an earlier release has kept in the clear, and what an older key has sealed, and forgets how it was before.
func (s *Service) seal(ctx context.Context) {
	if s.deps.Keys == nil {
		return
	}
	due := func(w record) bool { return len(w.Keys) > 0 || slices.ContainsFunc(w.Sealed, s.deps.Keys.Stale) }
	var keys []bus.Key
	s.byName.All(func(e bus.Entry[record]) bool {
		if due(e.State) {
			keys = append(keys, e.Key)
		}
		return true
	})
	for _, key := range keys {
		_, err := s.webhooks.Update(ctx, key, bus.Meta{Actor: actor, Verb: "seal"}, func(w record) (record, error) {
			if !due(w) {
				return w, bus.ErrUnchanged
			}
			secrets, err := s.secretsOf(w)
			if err != nil {
				return w, err
			}
			return w, s.keep(&w, secrets...)
		})
		if err == nil {
			err = s.webhooks.Forget(ctx, key)
		}
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "secret of a webhook not sealed; the next to serve webhooks tries again", "tenant", key.Tenant, "webhook", key.ID, "code", api.CodeOf(err), "err", err)
		}
	}
}
