package standalone

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestLock: a directory that is in use is refused by the name of the process that has it; one that becomes free in a moment is waited for.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())+")") {
		t.Errorf("a second time: %v", err)
	}
	type locked struct {
		unlock func()
		err    error
	}
	next := make(chan locked)
	go func() {
		unlock, err := lock(t.Context(), dir)
		next <- locked{unlock, err}
	}()
	unlock() // as that of a killed process does once what it was starting has begun
	got := <-next
	if got.err != nil {
		t.Fatal(got.err)
	}
	got.unlock()
}
