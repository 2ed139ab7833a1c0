package kernel

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/cilium/ebpf"
)

// keepsake is what was there before, and the programs of its filters, which end with them.
type keepsake struct {
	old  *wanted
	next *wanted
	held []*ebpf.Program
}

// keep remembers what was there, to bring it back.
func (a *apply) keep(old *world, next *wanted) (*keepsake, error) {
	k := &keepsake{old: &wanted{world: *old, programs: map[string]code{}}, next: next}
	_, k.old.hasIFB = old.ifb.oursFor()
	hold := func(have, want []filter) error {
		for _, f := range have {
			stays := false
			for _, w := range want {
				stays = stays || w.same(f)
			}
			if stays || f.program == 0 || k.old.programs[f.name] != nil {
				continue
			}
			p, err := ebpf.NewProgramFromID(ebpf.ProgramID(f.program))
			if errors.Is(err, syscall.ENOENT) {
				continue // gone since it was read
			}
			if err != nil {
				return fmt.Errorf("keep the program of %s: %w", f, err)
			}
			k.held = append(k.held, p)
			k.old.programs[f.name] = p.Clone
		}
		return nil
	}
	var err error
	for _, fs := range [][2][]filter{
		{old.download.filters, next.download.filters}, {old.upload.filters, next.upload.filters}, {old.ingress.filters, next.ingress.filters},
	} {
		err = errors.Join(err, hold(fs[0], fs[1]))
	}
	if old.peer != nil && next.peer != nil {
		err = errors.Join(err, hold(old.peer.filters, next.peer.filters))
	}
	if err != nil {
		k.close()
		return nil, err
	}
	// A filter that stays can be lost all the same, when the tree around it is made again.
	for name, p := range next.programs {
		if k.old.programs[name] == nil {
			k.old.programs[name] = p
		}
	}
	return k, nil
}

func (k *keepsake) close() {
	for _, p := range k.held {
		_ = p.Close()
	}
}

// undo brings back what was there before cause, and returns the error that says whether it could. It goes on when ctx has ended: half
// of a change is worse than a late answer.
func (a *apply) undo(ctx context.Context, k *keepsake, at step, cause error) error {
	if errors.Is(cause, syscall.ENODEV) {
		cause = fmt.Errorf("%w: %w", ErrGone, cause)
	}
	failed := &ApplyError{Step: at.text, InForce: OldEnforcement, Err: cause}
	if k == nil { // nothing was changed
		return failed
	}
	failed.InForce = UnknownEnforcement
	ctx = context.WithoutCancel(ctx)
	for range maxRounds {
		now, err := a.observe()
		if err != nil {
			failed.Err = errors.Join(cause, fmt.Errorf("undo: %w", err))
			return failed
		}
		c := a.converge(now, k.old)
		if c.err == nil && c.empty() {
			failed.InForce = OldEnforcement
			return failed
		}
		if c.err == nil {
			at, err = a.execute(ctx, &c.phases)
		} else {
			err = c.err
		}
		c.release()
		if err != nil {
			failed.Err = errors.Join(cause, fmt.Errorf("undo: %s: %w", at.text, err))
			break
		}
	}
	if now, err := a.observe(); err == nil {
		if want, err := a.want(now); err == nil {
			if c := a.converge(now, want); c.err == nil {
				if c.empty() {
					failed.InForce = NewEnforcement
				}
				c.release()
			}
		}
	}
	return failed
}
