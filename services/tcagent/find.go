package tcagent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/tc/kernel"
)

// finder finds sessions' interfaces: a session's processes are in a network namespace that has its address, and the veth in that namespace
// has its other side on the node. Who makes a veth for a session may say so by its alias (api.TrafficLinkAlias), before any process is there, and a container runtime, if there is one,
// knows its pods; otherwise, or if they know nothing, the node's processes are looked through.
type finder struct {
	proc    string
	kernel  *kernel.Kernel
	runtime Runtime // nil: it is not asked
	log     *slog.Logger
	silent  bool // the runtime did not answer the last time

	spaces  map[string]space // by what names a network namespace: "net:[4026532008]", which may be another's when this one has ended
	told    bool             // what aliases and the runtime say was looked at
	scanned bool             // and the processes
}

// space is a network namespace that has processes.
type space struct {
	found kernel.Found
	ok    bool // it has a veth with its other side here
}

func newFinder(proc string, k *kernel.Kernel, runtime Runtime, log *slog.Logger) *finder {
	return &finder{proc: proc, kernel: k, runtime: runtime, log: log, spaces: map[string]space{}}
}

// find returns the interface of the session with that address; ok is false while there is none. It looks at the node's processes at
// most once between two calls of again.
func (f *finder) find(ctx context.Context, address string) (on kernel.Interface, ok bool, err error) {
	want, err := netip.ParseAddr(address)
	if err != nil {
		return on, false, nil //nolint:nilerr // no address: a session without a network of its own
	}
	if on, ok = f.known(want.Unmap()); ok || f.scanned {
		return on, ok, nil
	}
	if !f.told {
		told, err := f.ask(ctx)
		if err != nil {
			return on, false, err
		}
		if _, err := f.visit(told, false); err != nil {
			return on, false, err
		}
		f.told = true
		if on, ok = f.known(want.Unmap()); ok {
			return on, ok, nil
		}
	}
	if err := f.scan(); err != nil {
		return on, false, err
	}
	f.scanned = true
	on, ok = f.known(want.Unmap())
	return on, ok, nil
}

func (f *finder) known(want netip.Addr) (on kernel.Interface, ok bool) {
	for _, s := range f.spaces {
		if s.ok && slices.Contains(s.found.Addresses, want) {
			return s.found.Interface, true
		}
	}
	return on, false
}

// again lets the next find look anew.
func (f *finder) again() { f.told, f.scanned = false, false }

// ask returns the files of network namespaces that aliases and the container runtime name. A runtime that does not answer is no error: there are processes.
func (f *finder) ask(ctx context.Context) (paths []string, err error) {
	if paths, err = f.aliased(); err != nil {
		return nil, err
	}
	for _, p := range f.pods(ctx) {
		paths = append(paths, f.namespace(p.PID))
	}
	return paths, nil
}

// aliased returns the files of network namespaces that aliases name.
func (f *finder) aliased() (paths []string, err error) {
	named, err := f.kernel.Named(api.TrafficLinkAlias)
	for _, n := range named {
		if path, ok := f.file(n); ok {
			paths = append(paths, path)
		}
	}
	return paths, err
}

// pods are those that the container runtime knows.
func (f *finder) pods(ctx context.Context) []Pod {
	if f.runtime == nil {
		return nil
	}
	pods, err := f.runtime.Pods(ctx)
	if err != nil && !f.silent && ctx.Err() == nil {
		f.log.Warn("the container runtime does not say where its pods are; the node's processes are looked through", "err", err)
	}
	f.silent = err != nil
	return pods
}

func (f *finder) namespace(pid int) string {
	return filepath.Join(f.proc, strconv.Itoa(pid), "ns", "net")
}

// scan looks at the namespaces of all processes, and forgets those that have none.
func (f *finder) scan() error {
	entries, err := os.ReadDir(f.proc)
	if err != nil {
		return err
	}
	told, err := f.aliased()
	if err != nil {
		return err
	}
	var paths []string
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			paths = append(paths, f.namespace(pid))
		}
	}
	seen, err := f.visit(told, false)
	if err != nil {
		return err
	}
	more, err := f.visit(paths, true)
	if err != nil {
		return err
	}
	maps.Copy(more, seen)
	f.spaces = more
	return nil
}

// visit looks at network namespaces, and returns what is known of these. Those that are known by another file still are not asked again, unless they had no address yet. Whether a file
// that somebody else named is one, only strict visits care.
func (f *finder) visit(paths []string, strict bool) (seen map[string]space, err error) {
	seen = map[string]space{}
	for _, path := range paths {
		name, err := os.Readlink(path)
		if err != nil {
			continue // it has ended, or is a kernel thread's
		}
		if _, ok := seen[name]; ok {
			continue
		}
		known, ok := f.spaces[name]
		if !ok || !known.ok || len(known.found.Addresses) == 0 {
			found, err := f.kernel.Find(path)
			if err != nil && strict && !errors.Is(err, kernel.ErrGone) {
				return nil, err
			}
			known = space{found: found, ok: err == nil}
		}
		known.found.Namespace = path // a file that is there now
		seen[name], f.spaces[name] = known, known
	}
	return seen, nil
}

// file is the file of a network namespace that an alias names, in the node's /proc. Who closed it may have another file of that number by now, before the kernel has
// taken the interface away.
func (f *finder) file(n kernel.Named) (path string, ok bool) {
	rest, ok := strings.CutPrefix(n.Name, defaultProc+"/")
	path = filepath.Join(f.proc, rest)
	if !ok || !filepath.IsLocal(rest) {
		return "", false
	}
	what, err := os.Readlink(path)
	return path, err == nil && strings.HasPrefix(what, "net:[")
}

// drop forgets the namespaces whose interface is gone; 0: it is not known whose are.
func (f *finder) drop(gone map[int]bool) {
	if gone[0] {
		clear(f.spaces)
	}
	maps.DeleteFunc(f.spaces, func(_ string, s space) bool { return gone[s.found.Index] })
}

// forget makes the next find ask everything anew: something was not as it is known.
func (f *finder) forget() {
	clear(f.spaces)
	f.again()
}
