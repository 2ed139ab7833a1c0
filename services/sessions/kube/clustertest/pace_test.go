//go:build cluster

package clustertest_test

import (
	"syscall"
	"testing"
	"time"

	"agentyard.dev/libs/thread"
)

const (
	paceWork = 20 * time.Millisecond  // of processor time, longer than the turn that a thread has after it slept
	paceRest = 250 * time.Millisecond // so the measure is no burden
)

// slowness measures the machine while a test that holds a promise about time works on it. What it returns says how many times as long as on a machine of its own something takes here that needs a processor:
// never less than 1. A promise is of a machine that does what the yard asks of it; where the processors are wanted by many at a time, everything takes that many times as long, and
// what was late says nothing of the yard. So bounds are asserted as multiples of it, which on a quiet machine are the promises themselves.
func slowness(t *testing.T) (sinceStart func() float64) {
	t.Helper()
	ask, stop, done := make(chan chan float64), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- thread.Own(func() error {
			var passed, worked time.Duration
			for {
				began, used := time.Now(), threadTime()
				for threadTime()-used < paceWork {
					continue
				}
				passed, worked = passed+time.Since(began), worked+threadTime()-used
				rest := time.After(paceRest)
				for resting := true; resting; {
					select {
					case <-rest:
						resting = false
					case to := <-ask:
						to <- max(1, float64(passed)/float64(worked))
					case <-stop:
						return nil
					}
				}
			}
		})
	}()
	t.Cleanup(func() { close(stop); <-done })
	return func() float64 {
		answer := make(chan float64)
		ask <- answer
		return <-answer
	}
}

// threadTime is the processor time of this thread.
func threadTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_THREAD, &u); err != nil {
		panic(err) // which says that the kernel has no such clock
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// times returns a promise on a machine of a slowness.
func times(slowness float64, promised time.Duration) time.Duration {
	return time.Duration(slowness * float64(promised))
}
