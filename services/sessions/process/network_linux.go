package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"agentyard.dev/services/sessions/sandbox"
)

const (
	ipForward = "/proc/sys/net/ipv4/ip_forward"
	// ipConf6 has what the kernel does with IPv6, by device and for "all".
	ipConf6    = "/proc/sys/net/ipv6/conf/"
	ipForward6 = ipConf6 + "all/forwarding"
	// forwardNote says that the machine forwarded nothing before.
	forwardNote  = "network.forward"
	forwardNote6 = "network.forward6"
	// never and never6 are what no session reaches: links' own addresses, and with them clouds' metadata.
	never  = "169.254.0.0/16"
	never6 = "fe80::/10, fd00:ec2::254"
	// nftTimeout bounds one run of nft(8).
	nftTimeout = 5 * time.Second
)

// route has the machine forward what sessions send, in its own name, and let nothing in: nobody reaches a session, and a session reaches neither
// another one nor the machine itself. All of it is one table. Then it tries whether a network can be made.
func (r *Runtime) route(a *addresses) error {
	if os.Geteuid() != 0 {
		return errors.New("it needs root")
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("it needs the program %s (packages iproute2, nftables)", tool)
		}
	}
	var out6, in6 string
	if a.pool6.IsValid() {
		out6 = fmt.Sprintf("ip6 saddr %[1]s ip6 daddr != %[1]s masquerade", a.pool6)
		in6 = fmt.Sprintf("ip6 daddr %[1]s ct state established,related accept\n\t\tip6 daddr %[1]s reject", a.pool6)
	}
	if err := nft(fmt.Sprintf(`table inet %[1]s
delete table inet %[1]s
table inet %[1]s {
	chain postrouting {
		type nat hook postrouting priority srcnat
		ip saddr %[2]s ip daddr != %[2]s masquerade
		%[4]s
	}
	chain forward {
		type filter hook forward priority filter
		ip daddr %[2]s ct state established,related accept
		ip daddr %[2]s reject
		%[5]s
		iifname "%[3]s*" ip daddr %[6]s reject
		iifname "%[3]s*" ip6 daddr { %[7]s } reject
	}
	chain input {
		type filter hook input priority filter
		iifname "%[3]s*" ct state established,related accept
		iifname "%[3]s*" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		iifname "%[3]s*" reject
	}
}
`, a.table(), a.pool, sandbox.HostPrefix, out6, in6, never, never6)); err != nil {
		return err
	}
	if err := r.forward(ipForward, forwardNote); err != nil {
		return err
	}
	if a.pool6.IsValid() {
		if err := r.forward(ipForward6, forwardNote6); err != nil {
			return err
		}
	}
	trial, err := a.take()
	if err != nil {
		return err
	}
	defer a.giveBack(trial.Address)
	network, err := sandbox.MakeNetwork(trial)
	if err != nil {
		return err
	}
	network.Close()
	return nil
}

// forward has the machine forward packets, and notes it where it did not before.
func (r *Runtime) forward(file, note string) error {
	was, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read forwarding: %w", err)
	}
	if strings.TrimSpace(string(was)) != "0" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(r.cfg.DataDir, note), nil, 0o600); err != nil {
		return fmt.Errorf("note forwarding: %w", err)
	}
	if err := os.WriteFile(file, []byte("1"), 0o600); err != nil {
		return fmt.Errorf("forward packets: %w", err)
	}
	return nil
}

// possible6 says why sessions can have no IPv6; nil: they can.
func possible6() error {
	if off, err := os.ReadFile(ipConf6 + "all/disable_ipv6"); err != nil || strings.TrimSpace(string(off)) != "0" {
		return errors.New("the kernel has none, or it is switched off")
	}
	have, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	global := slices.ContainsFunc(have, func(h net.Addr) bool {
		p, err := netip.ParsePrefix(h.String())
		return err == nil && p.Addr().Is6() && p.Addr().IsGlobalUnicast()
	})
	if !global {
		return errors.New("the machine itself has no address of it")
	}
	forwards, err := os.ReadFile(ipForward6)
	if err != nil {
		return fmt.Errorf("read forwarding: %w", err)
	}
	if strings.TrimSpace(string(forwards)) != "0" {
		return nil
	}
	// The kernel forgets the routes that routers advertised when it begins to forward, unless it is told to heed them all the same.
	routes, err := os.ReadFile("/proc/net/ipv6_route")
	if err != nil {
		return fmt.Errorf("read routes: %w", err)
	}
	for route := range strings.Lines(string(routes)) {
		f := strings.Fields(route)
		if len(f) < 10 {
			continue
		}
		flags, err := strconv.ParseUint(f[8], 16, 32)
		heeds, rerr := os.ReadFile(ipConf6 + f[9] + "/accept_ra")
		if err == nil && rerr == nil && flags&unix.RTF_ADDRCONF != 0 && flags&unix.RTF_DEFAULT != 0 && strings.TrimSpace(string(heeds)) == "1" {
			return fmt.Errorf("the machine has its way out from router advertisements, which it would lose by forwarding; set net.ipv6.conf.%s.accept_ra to 2", f[9])
		}
	}
	return nil
}

// unroute takes away what route made.
func (r *Runtime) unroute(a *addresses) error {
	err := nft(fmt.Sprintf("delete table inet %s\n", a.table()))
	for file, name := range map[string]string{ipForward: forwardNote, ipForward6: forwardNote6} {
		note := filepath.Join(r.cfg.DataDir, name)
		if _, serr := os.Stat(note); errors.Is(serr, fs.ErrNotExist) {
			continue
		}
		if werr := os.WriteFile(file, []byte("0"), 0o600); werr != nil {
			err = errors.Join(err, fmt.Errorf("forward packets no more: %w", werr))
			continue
		}
		err = errors.Join(err, os.Remove(note))
	}
	return err
}

func nft(rules string) error {
	ctx, cancel := context.WithTimeout(context.Background(), nftTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}
