package tc_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/tc"
)

// run runs a command that must succeed and returns what it printed.
func run(t *testing.T, input string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s\nits input:\n%s", name, strings.Join(args, " "), err, out.String(), input)
	}
	return out.String()
}

// TestKernelTakesCommands gives the printed commands to the real tools in network namespaces of their own.
func TestKernelTakesCommands(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, for namespaces")
	}
	for _, tool := range []string{"ip", "tc", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing, which make test installs (iproute2, nftables)", tool)
		}
	}
	// No more than every kernel has that has HTB: the queue is bfifo.
	can := able
	can.FQCodel, can.SFQ = false, false
	report := parsed(t, "team.yaml")
	report.Mode = tc.Report
	for i, tt := range []struct {
		name   string
		policy tc.Policy
		can    tc.Capabilities
	}{{"ifb", parsed(t, "team.yaml"), can}, {"peer", parsed(t, "team.yaml"), plain}, {"report", report, can}} {
		t.Run(tt.name, func(t *testing.T) {
			node := fmt.Sprintf("tcnode%d-%d", os.Getpid(), i)
			session := fmt.Sprintf("tcsession%d-%d", os.Getpid(), i)
			for _, ns := range []string{node, session} {
				run(t, "", "ip", "netns", "add", ns)
				t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
			}
			in := func(ns, input string, args ...string) string {
				return run(t, input, "ip", append([]string{"netns", "exec", ns}, args...)...)
			}
			d := tc.Devices{Host: "veth0", IFB: "ifb0", Peer: "eth0", Namespace: session}
			run(t, "", "ip", "-n", node, "link", "add", d.Host, "type", "veth", "peer", "name", d.Peer, "netns", session)
			run(t, "", "ip", "-n", node, "link", "set", d.Host, "up")
			run(t, "", "ip", "-n", session, "link", "set", d.Peer, "up")

			plan, _, err := tc.Compile([]tc.Policy{tt.policy}, ofAcme, tt.can, noon)
			if err != nil {
				t.Fatal(err)
			}
			c := plan.Commands(d)
			lines := func(l []string) string { return strings.Join(l, "\n") + "\n" }
			in(node, lines(c.IP), "ip", "-batch", "-")
			in(node, lines(c.TC), "tc", "-batch", "-")
			in(node, lines(c.NFT), "nft", "-f", "-")
			in(session, lines(c.SessionTC), "tc", "-batch", "-")
			in(session, lines(c.SessionNFT), "nft", "-f", "-")
			in(node, lines(c.NFT), "nft", "-f", "-") // which replaces its table

			type place struct {
				ns, dev string
				tree    *tc.Tree
			}
			places := []place{{node, d.Host, plan.Download}, {node, d.IFB, plan.Upload}}
			if plan.Upload.Place == tc.AtPeer {
				places[1].ns, places[1].dev = session, d.Peer
			}
			for _, at := range places {
				classes := in(at.ns, "", "tc", "class", "show", "dev", at.dev)
				if got := strings.Count(classes, "class htb"); got != len(at.tree.Leaves)+1 {
					t.Errorf("%s has %d classes, want %d:\n%s", at.dev, got, len(at.tree.Leaves)+1, classes)
				}
				for _, l := range at.tree.Leaves {
					if !strings.Contains(classes, fmt.Sprintf("class htb %s parent 1:1 leaf %s prio %d ", l.Minor, l.Minor.Handle(), l.Priority)) {
						t.Errorf("class %s of %s is not below 1:1 with its queue:\n%s", l.Minor, at.dev, classes)
					}
				}
				selectors := 0
				for _, f := range at.tree.Filters {
					selectors += len(f.Selectors())
				}
				if filters := in(at.ns, "", "tc", "filter", "show", "dev", at.dev); strings.Count(filters, "flowid 1:") != selectors {
					t.Errorf("%s has not %d filters:\n%s", at.dev, selectors, filters)
				}
			}
			rules := in(node, "", "nft", "list", "ruleset")
			for ns, wanted := range map[string][]string{node: c.NFT, session: c.SessionNFT} {
				rules := in(ns, "", "nft", "list", "ruleset")
				got, want := strings.Count(rules, "limit rate over")+strings.Count(rules, "ct count over"), strings.Count(lines(wanted), "add rule")
				if got != want {
					t.Errorf("%s has %d rules, want %d:\n%s", ns, got, want, rules)
				}
			}
			if drops := strings.Contains(rules, "drop"); drops != strings.Contains(lines(c.NFT), "drop") || drops && plan.Mode == tc.Report {
				t.Errorf("the node's rules in mode %s:\n%s", plan.Mode, rules)
			}
		})
	}
}
