package process

import (
	"context"
	"fmt"
	"os"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
)

// Kept implements sessions.Keeper: the sessions that have a directory. One whose first runner is just being started is not
// among them.
func (r *Runtime) Kept(ctx context.Context) ([]sessions.Ref, error) {
	if err := r.Ready(ctx); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(r.sessionsDir())
	if err != nil {
		return nil, fmt.Errorf("read sessions' directories: %w", err)
	}
	var kept []sessions.Ref
	for _, e := range entries {
		if !e.IsDir() || !api.ValidID(api.KindSession, e.Name()) {
			continue
		}
		if i, err := readInstance(r.dir(e.Name())); err == nil {
			kept = append(kept, sessions.Ref{Tenant: i.Tenant, Session: i.Session})
		}
	}
	return kept, nil
}
