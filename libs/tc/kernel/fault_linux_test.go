package kernel_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// bothChanged differs from twoClasses in each kind of thing that can differ.
func bothChanged(rate tc.BitsPerSecond) *tc.Plan {
	p := twoClasses(rate)
	for _, t := range []*tc.Tree{p.Download, p.Upload} {
		t.Rate *= 2
		t.Leaves[0].Ceiling *= 2
		t.Leaves[0].Queue.Limit *= 2
		t.Leaves[1] = leaf(0x700, "other", rate/8, rate)
		t.Filters = []tc.Filter{{Class: 0x700, Family: tc.IPv4, Protocol: number(6)}}
	}
	return p
}

// TestFailure lets each message of a change fail, in turn, once and for good.
func TestFailure(t *testing.T) {
	off := &tc.Plan{Format: tc.PlanFormat, Mode: tc.Off}
	type change struct {
		name     string
		old, new *tc.Plan
	}
	changes := []change{
		{"a first plan", off, twoClasses(20 * tc.Mbit)},
		{"a change of everything", twoClasses(20 * tc.Mbit), bothChanged(20 * tc.Mbit)},
		{"a direction less", twoClasses(20 * tc.Mbit), plan(simple(tc.AtHost, tc.Mbit), nil)},
		{"the end", twoClasses(20 * tc.Mbit), off},
		{"limits", limited(20, 30, 40), limited(20, 31, 41)},
		{"the end of limits", limited(20, 30, 40), twoClasses(40 * tc.Mbit)},
	}
	queued := func(q tc.Queue) *tc.Plan {
		p := twoClasses(20 * tc.Mbit)
		p.Download.Leaves[0].Queue, p.Upload.Leaves[1].Queue = q, q
		return p
	}
	kinds := queues(kerneltest.NewNamespace(t).Open(t).Capabilities())
	for i, kind := range kinds {
		was, other := kind(0), kinds[(i+1)%len(kinds)](0)
		changes = append(changes, change{"another " + string(was.Kind), queued(was), queued(kind(7))})
		if other.Kind != was.Kind {
			changes = append(changes, change{"a " + string(other.Kind) + " for a " + string(was.Kind), queued(was), queued(other)})
		}
	}
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			lab := kerneltest.NewLab(t)
			k, on := lab.Node.Open(t), lab.Session.Interface
			apply(t, k, on, c.new)
			fresh := enforced(t, k, on)
			apply(t, k, on, c.old)
			before := enforced(t, k, on)
			n := 0
			for ; ; n++ {
				// Once: what was done before is undone.
				sent := 0
				k.Refuse(func() error {
					if sent++; sent == n+1 {
						return syscall.ENOMEM
					}
					return nil
				})
				_, err := k.Apply(t.Context(), on, c.new)
				k.Refuse(nil)
				if err == nil {
					break // there are no more messages
				}
				var failed *kernel.ApplyError
				if !errors.As(err, &failed) || !errors.Is(err, syscall.ENOMEM) || failed.Step == "" || failed.InForce != kernel.OldEnforcement {
					t.Fatalf("message %d: %v", n, err)
				}
				if got := enforced(t, k, on); got != before {
					t.Fatalf("message %d (%v): got\n%s\nwant\n%s", n, err, got, before)
				}

				// From there on: nothing can be undone, as when the process dies. It says so unless old or new really hold, and
				// the next call, of another process, goes on from there.
				sent = 0
				k.Refuse(func() error {
					if sent++; sent > n {
						return syscall.ENOMEM
					}
					return nil
				})
				_, err = k.Apply(t.Context(), on, c.new)
				k.Refuse(nil)
				if !errors.As(err, &failed) {
					t.Fatalf("message %d and all behind it: %v", n, err)
				}
				switch got := enforced(t, k, on); failed.InForce {
				case kernel.OldEnforcement:
					if got != before {
						t.Fatalf("message %d: %v, but holds\n%s", n, err, got)
					}
				case kernel.NewEnforcement:
					if got != fresh {
						t.Fatalf("message %d: %v, but holds\n%s", n, err, got)
					}
				default:
					if got == before || got == fresh {
						t.Fatalf("message %d: %v, but holds\n%s", n, err, got)
					}
				}
				other := lab.Node.Open(t)
				apply(t, other, on, c.old)
				if got := enforced(t, other, on); got != before {
					t.Fatalf("message %d, after the crash: got\n%s\nwant\n%s", n, got, before)
				}
			}
			if got := enforced(t, k, on); got != fresh {
				t.Errorf("got\n%s\nwant\n%s", got, fresh)
			}
			t.Logf("%d messages", n)
			if n < 2 {
				t.Error("nothing was tried")
			}
		})
	}
}

// TestOrphan proves that no class is ever sent before its parent is known to be there: the kernel would hang it at the root.
func TestOrphan(t *testing.T) {
	lab := kerneltest.NewLab(t)
	k, on := lab.Node.Open(t), lab.Session.Interface
	for n := range 20 {
		sent := 0
		k.Refuse(func() error {
			if sent++; sent > n {
				return syscall.EPERM
			}
			return nil
		})
		_, err := k.Apply(t.Context(), on, twoClasses(10*tc.Mbit))
		k.Refuse(nil)
		for _, d := range []string{"h0", "ayu" + itoa(on.Index)} {
			if !strings.HasPrefix(d, "h") && err != nil && !exists(t, lab.Node, d) {
				continue
			}
			for h, c := range classes(t, lab.Node, d) {
				if h != 0x10001 && c.Parent != 0x10001 {
					t.Errorf("after %d messages: class %x of %s hangs at %x", n, h, d, c.Parent)
				}
			}
		}
		if _, err := k.Remove(t.Context(), on); err != nil {
			t.Fatal(err)
		}
	}
}
