package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/sandbox"
)

// spare is a runner that was started ahead and waits for its launch, in whose place most of a session's start is done. It is
// nobody's session: it ends with the runtime, and by itself when the runtime's process dies, for then its standard input ends.
type spare struct {
	*child
	log    string // its output, a file that becomes its session's
	cgroup string // the name of its sandbox's cgroup; empty: none
	net    launch.Network
	used   chan struct{} // closed when it has its launch, or has ended because it could not be given one
}

const (
	spareLog = "runner.log"
	// spareCgroup names the cgroup that is made for a spare, so that whoever comes after a crash can remove it.
	spareCgroup = "cgroup"
	// refillWait bounds how long the next spare waits for the agent of the one before to be up: it is not to slow that down.
	refillWait = 2 * time.Second
	// A spare that died or could not be made is made again after spareFirst, twice as long each time, up to spareMost.
	spareFirst = time.Second
	spareMost  = time.Minute
)

func (r *Runtime) spareDir() string { return filepath.Join(r.cfg.DataDir, "spare") }

// takeSpare returns the spare runner, which is the caller's then, or nil when there is none at the moment.
func (r *Runtime) takeSpare() *spare {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.spare
	r.spare = nil
	if s != nil {
		close(r.taken)
	}
	return s
}

// keepSpare keeps one spare runner until ctx ends.
func (r *Runtime) keepSpare(ctx context.Context) {
	wait := spareFirst
	for ctx.Err() == nil {
		s, err := r.makeSpare()
		if err == nil {
			err = r.offer(ctx, s)
		}
		if err == nil {
			wait = spareFirst
			continue
		}
		if ctx.Err() == nil {
			r.log.Warn("keep a spare runner", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, spareMost)
	}
	if err := r.clearSpare(); err != nil {
		r.log.Warn("remove the spare runner", "err", err)
	}
}

// offer waits until s is used and its session's agent is up. It returns an error after having ended one that is not used.
func (r *Runtime) offer(ctx context.Context, s *spare) error {
	taken := make(chan struct{})
	r.mu.Lock()
	r.spare, r.taken = s, taken
	r.mu.Unlock()
	watch, cancel := context.WithCancel(ctx)
	ended := make(chan bool, 1)
	go func() { ended <- s.watch(watch) }()
	var died bool
	select {
	case <-taken:
		cancel()
		<-ended
	case died = <-ended: // or ctx has ended
		cancel()
	}
	r.mu.Lock()
	mine := r.spare == s
	if mine {
		r.spare = nil
	}
	r.mu.Unlock()
	if mine {
		defer r.network.giveBack(s.net.Address)
		s.stdin.Close()
		s.kill()
		if how := s.reap(); died {
			return errors.New(how)
		}
		return ctx.Err()
	}
	<-s.used
	_ = s.stdin.SetReadDeadline(time.Now().Add(refillWait))
	stop := context.AfterFunc(ctx, func() { _ = s.stdin.SetReadDeadline(time.Now()) })
	defer stop()
	_, _ = s.stdin.Read(make([]byte, 1)) // it ends when the agent is up, or the runner dead
	s.stdin.Close()
	return nil
}

// makeSpare starts a spare runner. It needs that no other is there.
func (r *Runtime) makeSpare() (*spare, error) {
	if err := r.clearSpare(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.spareDir(), 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	s := &spare{log: filepath.Join(r.spareDir(), spareLog), used: make(chan struct{})}
	told := launch.Launch{Spare: true, Sandbox: launch.Sandbox{Isolation: sandbox.Probe().Isolation()}}
	if slices.Contains(told.Sandbox.Isolation, sandbox.Cgroup) {
		s.cgroup = "agentyard-" + api.NewID('r')
		if err := os.WriteFile(filepath.Join(r.spareDir(), spareCgroup), []byte(s.cgroup), 0o600); err != nil {
			return nil, fmt.Errorf("note cgroup: %w", err)
		}
		g, err := sandbox.MakeGroup(s.cgroup, api.Resources{})
		if err != nil {
			return nil, err
		}
		told.Sandbox.Cgroup = g.String()
	}
	var err error
	if s.net, err = r.network.take(); err != nil {
		return nil, err
	}
	told.Sandbox.Network = s.net
	if err := r.begin(s, told); err != nil {
		r.network.giveBack(s.net.Address)
		return nil, err
	}
	return s, nil
}

func (r *Runtime) begin(s *spare, told launch.Launch) error {
	text, err := json.Marshal(told)
	if err != nil {
		return fmt.Errorf("encode launch: %w", err)
	}
	if s.child, err = r.startRunner(s.log); err != nil {
		return err
	}
	if err := s.tell(text); err != nil {
		s.kill()
		return fmt.Errorf("%w; %s", err, s.reap())
	}
	return nil
}

// clearSpare removes what is left of the spare runners before. Their processes have ended or are about to.
func (r *Runtime) clearSpare() error {
	note := filepath.Join(r.spareDir(), spareCgroup)
	name, err := os.ReadFile(note)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the cgroup of the spare before: %w", err)
	}
	if name := string(name); strings.HasPrefix(name, "agentyard-") && filepath.Base(name) == name {
		ctx, cancel := context.WithTimeout(context.Background(), killWait)
		defer cancel()
		if g, err := sandbox.MakeGroup(name, api.Resources{}); err == nil { // else there are no cgroups any more
			if err := g.Remove(ctx); err != nil {
				return err
			}
		}
	}
	return r.forgetSpare()
}

// forgetSpare notes that the spare's cgroup is a session's now, or gone.
func (r *Runtime) forgetSpare() error {
	err := os.Remove(filepath.Join(r.spareDir(), spareCgroup))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
