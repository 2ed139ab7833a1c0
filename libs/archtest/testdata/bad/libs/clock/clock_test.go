package types

import (
	"testing"
	clock "time"
)

type turnstile struct{}

func (turnstile) Skip() {}

const reason = "there is no kernel here; boot one"

func TestClock(t *testing.T) {
	clock.Sleep(1)
	<-clock.After(1)
	t.Run("skips", func(t *testing.T) {
		t.Skip()
		t.Skip("  ")
		t.Skipf("%v", 1)
		t.SkipNow()
		t.Skip("there is no kernel here; boot one")
		t.Skip(reason)
		turnstile{}.Skip()
	})
}
