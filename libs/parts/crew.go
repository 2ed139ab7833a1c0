package parts

import "sync"

// Crew runs functions at the same time, each in a goroutine that may have run others before. A goroutine's stack starts small and is copied each time it
// grows; for a function that goes deep and returns soon that is much of what it costs, and a goroutine that stays has it behind it.
// How many run at once is for its user to bound. The zero value is ready to use.
type Crew struct {
	wg      sync.WaitGroup
	mu      sync.Mutex
	idle    []chan func() // the last to have become idle is the first to work again
	stopped bool
}

// maxIdle bounds the goroutines that wait for work; above it one that has nothing to do ends.
const maxIdle = 256

// Go runs f in a goroutine. It does not wait.
func (c *Crew) Go(f func()) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		hand := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		hand <- f
		return
	}
	c.mu.Unlock()
	c.wg.Go(func() {
		hand := make(chan func(), 1)
		for ok := true; ok; f, ok = <-hand {
			f()
			f = nil // what it refers to may go
			if !c.rest(hand) {
				return
			}
		}
	})
}

// rest makes a goroutine one that waits, and reports false if it is not needed any more.
func (c *Crew) rest(hand chan func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped || len(c.idle) >= maxIdle {
		return false
	}
	c.idle = append(c.idle, hand)
	return true
}

// Wait waits until every function has returned, and leaves no goroutine. Go is not called any more.
func (c *Crew) Wait() {
	c.mu.Lock()
	c.stopped = true
	for _, hand := range c.idle {
		close(hand)
	}
	c.idle = nil
	c.mu.Unlock()
	c.wg.Wait()
}
