package thread

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// TestOwn: the thread ends with the function, and is never the process's first, on which whatever is done stays.
func TestOwn(t *testing.T) {
	for range 200 {
		var tid int
		want := errors.New("as f does")
		if err := Own(func() error { tid = syscall.Gettid(); return want }); err != want {
			t.Fatal(err)
		}
		if tid == syscall.Getpid() {
			t.Fatal("it ran on the first thread")
		}
		task := fmt.Sprintf("/proc/self/task/%d", tid)
		for deadline := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
			if _, err := os.Stat(task); os.IsNotExist(err) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("thread %d has not ended", tid)
			}
		}
	}
}
