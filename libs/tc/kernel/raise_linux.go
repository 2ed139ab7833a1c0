package kernel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Named lists the veths here whose alias begins with prefix.
//
//	ip -o link show type veth
func (k *Kernel) Named(prefix string) (found []Named, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	links, err := readLinks(k.socket)
	for _, l := range links {
		if rest, ok := strings.CutPrefix(l.alias, prefix); ok && l.kind == "veth" {
			found = append(found, Named{l.index, rest, l.up})
		}
	}
	return found, err
}

// Raise sets the node's side of an interface up, if its alias begins with prefix and it is down, and says whether it did: packets pass from now on. It wraps
// ErrGone when there is none.
//
//	ip link set dev $HOST up
func (k *Kernel) Raise(ctx context.Context, on Interface, prefix string) (raised bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l, ok, err := readLink(k.socket, on.Index, "")
	switch {
	case err != nil:
		return false, err
	case !ok:
		return false, fmt.Errorf("device %d: %w", on.Index, ErrGone)
	case l.up || !strings.HasPrefix(l.alias, prefix):
		return false, nil
	}
	errs, err := k.socket.write(ctx, []message{linkUp(on.Index)})
	if err == nil {
		err = errs[0]
	}
	if errors.Is(err, syscall.ENODEV) {
		err = fmt.Errorf("%w: %w", ErrGone, err)
	}
	if err != nil {
		return false, fmt.Errorf("set %s up: %w", l.name, err)
	}
	return true, nil
}
