package tcagent

import (
	"errors"
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
// has its other side on the node. It needs to see the node's processes, and no container runtime. Who makes a veth for a session may say so
// by its alias (api.TrafficLinkAlias), before any process is there.
type finder struct {
	proc   string
	kernel *kernel.Kernel

	spaces  map[string]space // by what names a network namespace: "net:[4026532008]", which may be another's when this one has ended
	scanned bool
}

// space is a network namespace that has processes.
type space struct {
	found kernel.Found
	ok    bool // it has a veth with its other side here
}

func newFinder(proc string, k *kernel.Kernel) *finder {
	return &finder{proc: proc, kernel: k, spaces: map[string]space{}}
}

// find returns the interface of the session with that address; ok is false while there is none. It looks at the node's processes at
// most once between two calls of again.
func (f *finder) find(address string) (on kernel.Interface, ok bool, err error) {
	want, err := netip.ParseAddr(address)
	if err != nil {
		return on, false, nil //nolint:nilerr // no address: a session without a network of its own
	}
	if on, ok = f.known(want.Unmap()); ok || f.scanned {
		return on, ok, nil
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
func (f *finder) again() { f.scanned = false }

// scan looks at the namespaces of all processes; those that are known by another process still are not asked again, unless they had no
// address yet.
func (f *finder) scan() error {
	entries, err := os.ReadDir(f.proc)
	if err != nil {
		return err
	}
	named, err := f.kernel.Named(api.TrafficLinkAlias)
	if err != nil {
		return err
	}
	paths := make([]string, 0, len(named)+len(entries))
	for _, n := range named {
		if path, ok := f.file(n); ok {
			paths = append(paths, path)
		}
	}
	said := len(paths) // and who said so may have closed it since
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			paths = append(paths, filepath.Join(f.proc, e.Name(), "ns", "net"))
		}
	}
	seen := map[string]space{}
	for i, path := range paths {
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
			if err != nil && !errors.Is(err, kernel.ErrGone) && i >= said {
				return err
			}
			known = space{found: found, ok: err == nil}
		}
		known.found.Namespace = path // a process that is there now
		seen[name] = known
	}
	f.spaces = seen
	return nil
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
