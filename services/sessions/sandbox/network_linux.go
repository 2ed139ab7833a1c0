package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/thread"
	"agentyard.dev/services/sessions/launch"
)

const (
	// HostPrefix begins the names of the machine's sides of the pairs.
	HostPrefix = "ays"
	inside     = "eth0" // the session's side
	// queueLength is any that is not the kernel's own, 1000.
	queueLength = 500
	// ipTimeout bounds one run of ip(8).
	ipTimeout = 5 * time.Second
)

// Network is a network namespace with a pair of interfaces, one in it and one with its maker. It exists for as long as it is open or a process is in it:
// when all are gone, in whatever way, the kernel takes the pair away with it.
type Network struct {
	file   *os.File
	host   string // the machine's side
	routes string // ip(8)'s lines for the machine's way there
	held   bool   // its link is down until somebody sets it up (Open)
}

// MakeNetwork makes the namespace that spec describes. The maker needs to be root; that packets leave the machine is somebody else's work
// (process.Runtime's). A network that is held passes nothing before Open.
func MakeNetwork(spec launch.Network) (*Network, error) {
	address, err := netip.ParseAddr(spec.Address)
	if err != nil {
		return nil, fmt.Errorf("make network: %w", err)
	}
	gateway, err := netip.ParseAddr(spec.Gateway)
	if err != nil {
		return nil, fmt.Errorf("make network: %w", err)
	}
	address6, gateway6, err := pair6(spec)
	if err != nil {
		return nil, fmt.Errorf("make network: %w", err)
	}
	n := &Network{held: spec.Hold > 0}
	if err := thread.Own(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		n.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		return nil, fmt.Errorf("make network: %w", err)
	}
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	n.host = HostPrefix + hex.EncodeToString(random[:])
	file := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
	n.routes = fmt.Sprintf("route replace %s/32 dev %s\n", address, n.host)
	lines := fmt.Sprintf("link add %[1]s type veth peer name %[2]s netns %[3]s\naddress add %[4]s/32 dev %[1]s\n", n.host, inside, file, gateway)
	within := fmt.Sprintf(`link set lo up
address add %[2]s/32 dev %[1]s
link set %[1]s up
route add %[3]s dev %[1]s scope link
route add default via %[3]s
`, inside, address, gateway)
	if address6.IsValid() {
		n.routes += fmt.Sprintf("route replace %s/128 dev %s\n", address6, n.host)
		lines += fmt.Sprintf("address add %[2]s/128 dev %[1]s nodad\n", n.host, gateway6)
		within += fmt.Sprintf("address add %[2]s/128 dev %[1]s nodad\nroute add %[3]s/128 dev %[1]s\nroute add default via %[3]s dev %[1]s\n", inside, address6, gateway6)
	}
	if !n.held {
		lines += fmt.Sprintf("link set %s up\n", n.host) + n.routes
	}
	err = ip(lines)
	if err == nil {
		err = n.Do(func() error { return ip(within) })
	}
	if err == nil { // last: it is ready for whoever reads this
		// The kernel tells nobody of the alias of a link that is down, but of the length of its queue, which it does not have.
		err = ip(fmt.Sprintf("link set %[1]s alias %[2]s%[3]s\nlink set %[1]s txqueuelen %[4]d\n", n.host, api.TrafficLinkAlias, file, queueLength))
	}
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("make network: %w", err)
	}
	return n, nil
}

// pair6 is the session's address and the machine's of IPv6; neither is valid where the network has none.
func pair6(spec launch.Network) (address, gateway netip.Addr, err error) {
	if spec.Address6 == "" {
		return address, gateway, nil
	}
	if address, err = netip.ParseAddr(spec.Address6); err == nil {
		gateway, err = netip.ParseAddr(spec.Gateway6)
	}
	return address, gateway, err
}

// ip runs ip(8) on the lines, in the network namespace of this thread.
func ip(lines string) error {
	ctx, cancel := context.WithTimeout(context.Background(), ipTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(lines)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// Do runs f in the namespace. Sockets that it makes stay there, and so does a process that it starts; goroutines do not.
func (n *Network) Do(f func() error) error {
	return thread.Own(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network: %w", err)
		}
		return f()
	})
}

// File is the namespace, for launch.Sandbox.Namespace. It is closed with n.
func (n *Network) File() *os.File { return n.file }

// Close gives the namespace up.
func (n *Network) Close() { _ = n.file.Close() }

// enter has init's thread, and so the agent, be in the namespace that was left open for it.
func (c config) enter() error {
	if c.NetworkFD == 0 {
		if c.Network.Address != "" {
			return errors.New("the session's network is missing")
		}
		return nil
	}
	if err := unix.Setns(c.NetworkFD, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network: %w", err)
	}
	return unix.Close(c.NetworkFD)
}
