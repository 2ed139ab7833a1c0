package parts_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"

	"agentyard.dev/libs/parts"
)

func TestCrew(t *testing.T) {
	t.Run("runs everything, at the same time", func(t *testing.T) {
		var crew parts.Crew
		var ran atomic.Int64
		const n = 1000 // more than may rest
		for range 3 {
			together := make(chan struct{})
			var here atomic.Int64
			for range n {
				crew.Go(func() {
					if here.Add(1) == n {
						close(together)
					}
					<-together
					ran.Add(1)
				})
			}
			<-together
		}
		crew.Wait()
		if got := ran.Load(); got != 3*n {
			t.Errorf("%d ran, want %d", got, 3*n)
		}
	})
	t.Run("Wait waits for what runs and leaves nothing behind", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { // fails when a goroutine is left
			var crew parts.Crew
			crew.Go(func() {})
			synctest.Wait() // it rests
			release, done := make(chan struct{}), false
			crew.Go(func() { <-release; done = true })
			synctest.Wait()
			waited := make(chan struct{})
			go func() { crew.Wait(); close(waited) }()
			synctest.Wait()
			select {
			case <-waited:
				t.Error("Wait did not wait")
			default:
			}
			close(release)
			if <-waited; !done {
				t.Error("it returned before the function")
			}
		})
	})
}
