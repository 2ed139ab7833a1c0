package runner

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions/authfile"
)

const (
	// keepEvery is how often files of credentials are looked at. That costs one lstat each; to be told of changes would cost a watch of
	// directories that may not exist yet.
	keepEvery = 2 * time.Second
	// lastKeep is for what the agent refreshed just before the end.
	lastKeep = 3 * time.Second
)

// keptFile is a file of credentials that the agent keeps fresh.
type keptFile struct {
	path  string
	base  uint64    // the version that the yard has, of which
	known []byte    // is the content
	seen  signature // of the file when it was known
	told  bool      // that it cannot be kept
}

// keep brings back what the agent makes of its files of credentials, until ctx ends.
func (r *runner) keep(ctx context.Context) error {
	if len(r.kept) == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			r.keepOnce(ctx)
		}
	}
}

// keepLast is keep once more, when the agent has ended.
func (r *runner) keepLast() {
	if len(r.kept) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastKeep)
	defer cancel()
	r.keepOnce(ctx)
}

func (r *runner) keepOnce(ctx context.Context) {
	home, err := os.OpenRoot(r.home())
	if err != nil {
		r.log.Warn("keep credentials", "op", api.RunnerCredential.Verb, "err", err)
		return
	}
	defer func() { _ = home.Close() }()
	for _, k := range r.kept {
		if err := r.keepFile(ctx, home, k); err != nil && ctx.Err() == nil && !k.told {
			k.told = true
			r.log.Warn("keep credentials", "op", api.RunnerCredential.Verb, "file", k.path, "code", api.CodeOf(err), "err", err)
		}
	}
}

// keepFile brings back one file if it has changed and is whole. What fails is tried again by the next.
func (r *runner) keepFile(ctx context.Context, home *os.Root, k *keptFile) error {
	sig, err := lookHome(home, k.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && sig == k.seen {
		return nil // a file that the agent removed stays stored: it may be about to write it anew
	}
	if err != nil {
		return err
	}
	data, sig, err := readHome(home, k.path)
	if errors.Is(err, errChanging) || errors.Is(err, fs.ErrNotExist) || err == nil && !authfile.Whole(k.path, data) {
		return nil
	}
	if err != nil {
		return err
	}
	if bytes.Equal(data, k.known) {
		k.seen = sig
		return nil
	}
	res, err := rpc.CallAsSession(ctx, r.client, r.launch.Tenant, r.launch.Session, api.RunnerCredential, api.RunnerCredentialRequest{
		File: k.path, Base: k.base, Data: data,
	})
	if err != nil {
		return err
	}
	k.base, k.known, k.seen, k.told = res.Version, data, sig, false
	if len(res.Data) == 0 {
		return nil
	}
	// Another session's refresh was newer, in all of the file or a part. The agent has it too, unless it has written meanwhile.
	if now, err := lookHome(home, k.path); err != nil || now != sig {
		return nil //nolint:nilerr // the next look is at what it wrote
	}
	if err := r.place(home, k.path, res.Data); err != nil {
		return err
	}
	k.known = res.Data
	return nil
}
