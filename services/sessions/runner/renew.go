package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/sandbox"
)

// renewedPrefix begins the names of what is thrown away, in the session's directory.
const renewedPrefix = "renewed-"

// renew has the session begin anew for t's message, as api.Renew says. note, if not empty, says why that was not possible; the message must not be driven
// then. A runner that dies meanwhile has the next one do it all again, for it is the message that asks for it.
//
// Nothing of the old workspace is looked at, least of all its .git: it is moved away as a whole, and the repository is cloned as for a new session.
func (s *supervisor) renew(ctx context.Context, t *turn) (note string, err error) {
	r := s.r
	work, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		select {
		case <-t.interrupted:
			cancel()
		case <-work.Done():
		}
	})
	r.pushing.Lock() // a push reads the workspace
	err = s.beginAnew(work, t)
	r.pushing.Unlock()
	switch {
	case err == nil:
		return "", nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case t.wasInterrupted():
		return "Interrupted before it began.", nil
	}
	r.log.Warn("begin anew", "op", "renew", "code", api.CodeOf(err), "err", err)
	detail := api.Redact(err).Detail
	if api.CodeOf(err) == api.CodeInternal {
		detail = clip(err.Error()) // the session's own: its owner may know
	}
	ev := api.Event{Type: api.EventError, Code: api.CodeOf(err), Detail: "the session could not begin anew: " + detail, ReplyTo: t.item.MessageID}
	if err := r.append(ctx, ev); err != nil {
		return "", err
	}
	return "The session could not begin anew: " + detail, nil
}

func (s *supervisor) beginAnew(ctx context.Context, t *turn) error {
	r := s.r
	// Else what the agent has started may live on and write into the new workspace.
	if !r.isolated(sandbox.PID) && os.Getpid() != 1 {
		return api.Errorf(api.CodeConflict, "what the agent started cannot be ended for certain without the isolation %q", sandbox.PID)
	}
	s.close()
	if err := endDescendants(ctx); err != nil {
		return fmt.Errorf("end what the agent started: %w", err)
	}
	r.state.session("")
	r.talk.renew(t.item.MessageID)
	if err := r.discard(r.workspace(), filepath.Join(r.launch.Dir, "tmp")); err != nil {
		return err
	}
	if err := os.Remove(r.headFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget the commit: %w", err)
	}
	if err := r.makeDirs(); err != nil {
		return err
	}
	if r.launch.Repository == nil {
		return nil
	}
	return r.fetch(ctx, t.item.Renew.Ref)
}

// discard removes directories of the session. What a dead runner had moved away is removed too.
func (r *runner) discard(dirs ...string) error {
	for _, dir := range dirs {
		err := os.Rename(dir, filepath.Join(r.launch.Dir, renewedPrefix+api.NewID(api.KindMessage)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("discard %s: %w", filepath.Base(dir), err)
		}
	}
	old, err := filepath.Glob(filepath.Join(r.launch.Dir, renewedPrefix+"*"))
	if os.Getpid() == 1 { // in a pod, whose /tmp is the agent's too
		more, _ := filepath.Glob("/tmp/*") // the pattern is one
		hidden, _ := filepath.Glob("/tmp/.[!.]*")
		old = append(append(old, more...), hidden...)
	}
	for _, dir := range old {
		err = errors.Join(err, launch.RemoveDir(dir))
	}
	if err != nil {
		return fmt.Errorf("remove what is thrown away: %w", err)
	}
	return nil
}
