// Package thread runs functions on threads of their own, for what Linux keeps by thread: namespaces, above all.
package thread

import "runtime"

// Own runs f on a thread that nothing else runs on and that ends with it, so that whatever f has done to the thread ends too. It returns what f does.
func Own(f func() error) error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked, unless
		if first() {
			ended <- Own(f) // on another: this one is the process's first, which does not end before the process
			runtime.UnlockOSThread()
			return
		}
		ended <- f()
	}()
	return <-ended
}
