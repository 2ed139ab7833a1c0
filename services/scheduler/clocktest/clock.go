// Package clocktest gives tests a clock that they set.
package clocktest

import (
	"sync"
	"time"
)

// Clock is a time that stands still until it is moved.
type Clock struct {
	mu    sync.Mutex
	now   time.Time
	waits map[chan time.Time]time.Time
}

// New returns a clock that shows an RFC 3339 time.
func New(at string) *Clock {
	now, err := time.Parse(time.RFC3339, at)
	if err != nil {
		panic(err)
	}
	return &Clock{now: now, waits: map[chan time.Time]time.Time{}}
}

// Now returns the time that the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// After returns a channel that receives when the clock was moved by d or more, and what gives it up.
func (c *Clock) After(d time.Duration) (<-chan time.Time, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	if d <= 0 {
		ch <- c.now
		return ch, func() {}
	}
	c.waits[ch] = c.now.Add(d)
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waits, ch)
	}
}

// Move sets the clock ahead by d, or back. What waits for a time that has come goes on.
func (c *Clock) Move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for ch, at := range c.waits {
		if !at.After(c.now) {
			ch <- c.now
			delete(c.waits, ch)
		}
	}
}
