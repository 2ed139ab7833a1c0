package kernel_test

import (
	"errors"
	"testing"

	"agentyard.dev/libs/tc"
	"agentyard.dev/libs/tc/kernel"
	"agentyard.dev/libs/tc/kernel/kerneltest"
)

// TestRaise: an interface that its maker left down takes a plan, and passes packets when it is raised, not before.
func TestRaise(t *testing.T) {
	lab := kerneltest.NewQuietLab(t)
	k := lab.Node.Open(t)
	held := lab.Node.AddSession(t, "h1")
	lab.Node.Hold(t, held, "yard:")
	named, err := k.Named("yard:")
	if want := (kernel.Named{Index: held.Interface.Index, Name: held.Path()}); err != nil || len(named) != 1 || named[0] != want {
		t.Fatalf("got %+v %v, want %+v", named, err, want)
	}
	apply(t, k, held.Interface, twoClasses(tc.Mbit))
	for _, c := range []struct {
		on     kernel.Interface
		prefix string
		want   bool
	}{
		{lab.Session.Interface, "yard:", false}, // it is up
		{held.Interface, "another:", false},     // it is not ours
		{held.Interface, "yard:", true},
		{held.Interface, "yard:", false},
	} {
		before := lab.Node.Up(t, "h1")
		raised, err := k.Raise(t.Context(), c.on, c.prefix)
		if err != nil || raised != c.want || lab.Node.Up(t, "h1") != (before || c.want) {
			t.Errorf("%+v: raised %t, %v", c, raised, err)
		}
	}
	if result, err := k.Apply(t.Context(), held.Interface, twoClasses(tc.Mbit)); err != nil || len(result.Steps) != 0 {
		t.Errorf("the plan is not in force any more: %q %v", result.Steps, err)
	}
	if _, err := k.Raise(t.Context(), kernel.Interface{Index: 1 << 20}, "yard:"); !errors.Is(err, kernel.ErrGone) {
		t.Errorf("got %v", err)
	}
}
