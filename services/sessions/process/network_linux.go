package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"agentyard.dev/services/sessions/sandbox"
)

const (
	ipForward = "/proc/sys/net/ipv4/ip_forward"
	// forwardNote says that the machine forwarded nothing before.
	forwardNote = "network.forward"
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
	if err := nft(fmt.Sprintf(`table inet %[1]s
delete table inet %[1]s
table inet %[1]s {
	chain postrouting {
		type nat hook postrouting priority srcnat
		ip saddr %[2]s ip daddr != %[2]s masquerade
	}
	chain forward {
		type filter hook forward priority filter
		ip daddr %[2]s ct state established,related accept
		ip daddr %[2]s reject
	}
	chain input {
		type filter hook input priority filter
		iifname "%[3]s*" ct state established,related accept
		iifname "%[3]s*" reject
	}
}
`, a.table(), a.pool, sandbox.HostPrefix)); err != nil {
		return err
	}
	was, err := os.ReadFile(ipForward)
	if err != nil {
		return fmt.Errorf("read forwarding: %w", err)
	}
	if strings.TrimSpace(string(was)) == "0" {
		if err := os.WriteFile(filepath.Join(r.cfg.DataDir, forwardNote), nil, 0o600); err != nil {
			return fmt.Errorf("note forwarding: %w", err)
		}
		if err := os.WriteFile(ipForward, []byte("1"), 0o600); err != nil {
			return fmt.Errorf("forward packets: %w", err)
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

// unroute takes away what route made.
func (r *Runtime) unroute(a *addresses) error {
	err := nft(fmt.Sprintf("delete table inet %s\n", a.table()))
	note := filepath.Join(r.cfg.DataDir, forwardNote)
	if _, serr := os.Stat(note); errors.Is(serr, fs.ErrNotExist) {
		return err
	}
	if werr := os.WriteFile(ipForward, []byte("0"), 0o600); werr != nil {
		return errors.Join(err, fmt.Errorf("forward packets no more: %w", werr))
	}
	return errors.Join(err, os.Remove(note))
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
