package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/tc"
	"agentyard.dev/services/standalone/client"
)

func (a *app) traffic() *cobra.Command {
	return group("traffic", "Manage how fast sessions send and receive, and see what holds", nil,
		group("policy", "Manage traffic policies", []string{"policies"},
			a.policyApply(), a.policyPlan(), a.policyGet(), a.policyList(), a.policyHistory(), a.policyDelete()),
		a.trafficEffective(), a.trafficSession(), a.trafficTop(),
		group("fault", "Make a session's network worse for a while, for tests", []string{"faults"}, a.faultStart(), a.faultList(), a.faultStop()),
		group("node", "Show nodes", []string{"nodes"}, a.trafficNodes()))
}

const policyExample = "  name: office\n  link: {download: {ceiling: 50Mbit}, upload: {ceiling: 20Mbit}}\n  classes:\n" +
	"    - {name: model, guarantee: 10Mbit, match: [{cidr: 192.0.2.0/24, ports: [443]}]}\n    - {name: rest, default: true}"

func (a *app) policyApply() *cobra.Command {
	var file string
	cmd := a.command("apply -f FILE", "Create or replace traffic policies from a YAML or JSON file", cobra.NoArgs,
		func(cmd *cobra.Command, c *client.Client, _ []string) error {
			specs, err := a.readPolicies(file)
			if err != nil {
				return err
			}
			var applied []api.TrafficPolicy
			var did []string
			for _, spec := range specs {
				old, err := client.Do(cmd.Context(), c, api.GetTrafficPolicy, api.NameRef{Name: spec.Name})
				if err != nil && !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
					return err
				}
				now, err := client.Do(cmd.Context(), c, api.ApplyTrafficPolicy, api.ApplyTrafficPolicyRequest{Name: spec.Name, IfMatch: old.Rev, Policy: spec})
				if err != nil {
					return fmt.Errorf("policy %s: %w", spec.Name, err)
				}
				verb := "replaced"
				switch old.Rev {
				case 0:
					verb = "created"
				case now.Rev:
					verb = "unchanged"
				}
				applied, did = append(applied, now), append(did, verb)
			}
			return a.show(applied, func(t *table) {
				for i, p := range applied {
					t.row(p.Name, did[i])
				}
			})
		})
	cmd.Long = "Apply reads one or more YAML documents, each a traffic policy, says everything that is wrong with them, and\n" +
		"creates or replaces the policy of each name. 'policy plan' says before what that would change."
	cmd.Example = policyExample
	cmd.Flags().StringVarP(&file, "file", "f", "", "`file` to read; - is standard input")
	return cmd
}

// readPolicies reads and checks a file of policies. All that is wrong with it is told, line by line.
func (a *app) readPolicies(file string) ([]api.TrafficSpec, error) {
	if file == "" {
		return nil, usage(errors.New("say which file to read: -f FILE"))
	}
	in := a.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, tc.MaxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	policies, err := tc.ParseAll(data)
	var problems tc.Problems
	if errors.As(err, &problems) {
		for _, p := range problems {
			fmt.Fprintf(a.Err, "%s: %s\n", clean(file), clean(p.String()))
		}
		return nil, silent(exitUsage)
	}
	if err != nil {
		return nil, err
	}
	specs := make([]api.TrafficSpec, len(policies))
	for i, p := range policies {
		if specs[i], err = specOf(p); err != nil {
			return nil, err
		}
	}
	return specs, nil
}

// specOf is a policy as the API takes it: the JSON of both is one vocabulary.
func specOf(p tc.Policy) (spec api.TrafficSpec, err error) {
	data, err := p.JSON()
	if err == nil {
		err = json.Unmarshal(data, &spec)
	}
	return spec, err
}

func (a *app) policyPlan() *cobra.Command {
	var file, gone string
	cmd := a.command("plan -f FILE | --delete NAME", "Say what applying or deleting a traffic policy would change", cobra.NoArgs,
		func(cmd *cobra.Command, c *client.Client, _ []string) error {
			reqs := []api.PlanTrafficPolicyRequest{{Delete: true, TrafficSpec: api.TrafficSpec{Name: gone}}}
			if gone == "" {
				specs, err := a.readPolicies(file)
				if err != nil {
					return err
				}
				reqs = reqs[:0]
				for _, s := range specs {
					reqs = append(reqs, api.PlanTrafficPolicyRequest{TrafficSpec: s})
				}
			}
			previews := make([]api.TrafficPreview, len(reqs))
			for i, req := range reqs {
				var err error
				if previews[i], err = client.Do(cmd.Context(), c, api.PlanTrafficPolicy, req); err != nil {
					return fmt.Errorf("policy %s: %w", req.Name, err)
				}
			}
			return a.show(previews, func(t *table) {
				for _, p := range previews {
					showPreview(t, p)
				}
			})
		})
	cmd.Flags().StringVarP(&file, "file", "f", "", "`file` to read; - is standard input")
	cmd.Flags().StringVar(&gone, "delete", "", "`name` of a policy to be deleted")
	return cmd
}

func showPreview(t *table, p api.TrafficPreview) {
	t.row("POLICY", p.Policy.Name, p.Verb)
	t.row("SESSIONS", strconv.Itoa(p.Sessions))
	t.field("NODES", strings.Join(p.Nodes, ", "))
	for _, w := range p.Warnings {
		t.row("WARNING", w)
	}
	for _, e := range p.Effects {
		t.row(e.Session, e.Node)
		for _, c := range e.Changes {
			t.row("  "+c.Field, or(c.Before, "-"), "→", or(c.After, "-"))
		}
	}
	if shown := len(p.Effects); shown < p.Sessions {
		t.row(fmt.Sprintf("and %d more sessions", p.Sessions-shown))
	}
}

func (a *app) policyGet() *cobra.Command {
	return a.command("get NAME", "Show a traffic policy as YAML, ready to edit and apply", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *client.Client, args []string) error {
			p, err := client.Do(cmd.Context(), c, api.GetTrafficPolicy, api.NameRef{Name: args[0]})
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.show(p, nil)
			}
			data, err := json.Marshal(p.TrafficSpec)
			if err != nil {
				return err
			}
			policy, err := tc.Parse(data)
			if err != nil {
				return fmt.Errorf("policy %s is not one that this program reads: %w", p.Name, err)
			}
			text, err := policy.YAML()
			if err != nil {
				return err
			}
			if p.Status != nil {
				fmt.Fprintf(a.Out, "# %d sessions on %d nodes\n", p.Status.Sessions, p.Status.Nodes)
				for _, c := range p.Status.Conditions {
					fmt.Fprintf(a.Out, "# %s: %t%s\n", c.Type, c.Status, because(c.Reason))
				}
			}
			_, err = a.Out.Write(text)
			return err
		})
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + strings.ReplaceAll(clean(reason), "\n", "; ") + ")"
}

func (a *app) policyList() *cobra.Command {
	var list api.List
	cmd := a.command("list", "List traffic policies", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		page, err := client.Do(cmd.Context(), c, api.ListTrafficPolicies, list)
		if err != nil {
			return err
		}
		return a.show(page, func(t *table) {
			t.row("NAME", "MODE", "DOWNLOAD", "UPLOAD", "CLASSES", "DESCRIPTION")
			for _, p := range page.Items {
				t.row(p.Name, or(p.Mode, "enforce"), or(p.Link.Download.Ceiling, "-"), or(p.Link.Upload.Ceiling, "-"),
					strconv.Itoa(len(p.Classes)), shorten(p.Description, 50))
			}
			a.more(page.NextCursor)
		})
	})
	listFlags(cmd, &list)
	return cmd
}

func (a *app) policyHistory() *cobra.Command {
	var list api.List
	cmd := a.command("history NAME", "List every change of a traffic policy, oldest first", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *client.Client, args []string) error {
			page, err := client.Do(cmd.Context(), c, api.TrafficPolicyHistory, api.TrafficHistoryRequest{Name: args[0], List: list})
			if err != nil {
				return err
			}
			return a.show(page, func(t *table) {
				t.row("REV", "AT", "ACTOR", "VERB", "DOWNLOAD", "UPLOAD", "CLASSES")
				for _, ch := range page.Items {
					l := ch.State.Link
					t.row(strconv.FormatUint(ch.Rev, 10), stamp(&ch.At), ch.Actor, ch.Verb, or(l.Download.Ceiling, "-"), or(l.Upload.Ceiling, "-"),
						strconv.Itoa(len(ch.State.Classes)))
				}
				a.more(page.NextCursor)
			})
		})
	listFlags(cmd, &list)
	return cmd
}

func (a *app) policyDelete() *cobra.Command {
	return a.command("delete NAME", "Delete a traffic policy", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		_, err := client.Do(cmd.Context(), c, api.DeleteTrafficPolicy, api.NameRef{Name: args[0]})
		return err
	})
}

func (a *app) trafficEffective() *cobra.Command {
	return a.command("effective SESSION", "Show what holds for a session, and which policy says so", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *client.Client, args []string) error {
			e, err := client.Do(cmd.Context(), c, api.EffectiveTraffic, api.EffectiveTrafficRequest{Session: args[0]})
			if err != nil {
				return err
			}
			return a.show(e, func(t *table) { showEffective(t, e) })
		})
}

func showEffective(t *table, e api.TrafficEffective) {
	t.row("mode", e.Mode)
	for _, d := range []struct {
		name string
		of   api.TrafficDirectionValues
	}{{"download", e.Download}, {"upload", e.Upload}} {
		if d.of.Now != "" {
			t.row(d.name+" now", d.of.Now, "the node's uplink is shared")
		}
		for _, v := range []struct {
			name  string
			value *api.TrafficValue
		}{{"ceiling", d.of.Ceiling}, {"burst", d.of.Burst}} {
			if v.value != nil {
				t.row(d.name+" "+v.name, v.value.Value, v.value.From)
			}
		}
		for _, v := range []struct {
			name  string
			value *api.TrafficNumber
		}{{"packets/s", d.of.PacketsPerSecond}, {"connections", d.of.Connections}, {"connections/s", d.of.ConnectionsPerSecond}} {
			if v.value != nil {
				t.row(d.name+" "+v.name, strconv.FormatUint(uint64(v.value.Value), 10), v.value.From)
			}
		}
	}
	for _, c := range e.Classes {
		t.row("class "+c.Name, or(c.Guarantee, "no guarantee"), e.ClassesFrom)
	}
	for _, p := range e.Policies {
		t.row("policy "+p.Name, p.Tier, p.Mode, p.Idle)
	}
	for _, s := range e.Conflicts {
		t.row("conflict", s)
	}
	for _, s := range e.Warnings {
		t.row("warning", s)
	}
	if !e.Until.IsZero() {
		t.row("until", e.Until.Local().Format(time.DateTime))
	}
}

func (a *app) trafficSession() *cobra.Command {
	return a.command("session ID", "Show a session's plan: intended and applied, and the commands that would do the same", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *client.Client, args []string) error {
			s, err := client.Do(cmd.Context(), c, api.GetTrafficSession, api.SessionRef{ID: args[0]})
			if err != nil {
				return err
			}
			return a.show(s, func(t *table) {
				t.field("node", s.Node)
				switch {
				case s.Intended == nil:
					t.row("intended", "no node agent has reported")
				default:
					t.row("intended", s.Intended.Mode, "rev "+strconv.FormatUint(s.Intended.Rev, 10), s.Intended.Hash[:min(12, len(s.Intended.Hash))])
					for _, d := range s.Intended.Degraded {
						t.row("degraded", d)
					}
				}
				if s.Applied == nil {
					t.row("applied", "nothing")
				} else {
					t.row("applied", s.Applied.State, "rev "+strconv.FormatUint(s.Applied.Rev, 10), s.Applied.Detail)
				}
				showEffective(t, s.Effective)
				if s.Intended != nil {
					for _, line := range s.Intended.Commands {
						t.row("$ " + line)
					}
				}
			})
		})
}

func (a *app) trafficNodes() *cobra.Command {
	var list api.List
	cmd := a.command("list", "List nodes: what they can do, and whether their plans are in force", cobra.NoArgs,
		func(cmd *cobra.Command, c *client.Client, _ []string) error {
			page, err := client.Do(cmd.Context(), c, api.ListTrafficNodes, list)
			if err != nil {
				return err
			}
			return a.show(page, func(t *table) {
				t.row("NAME", "AGENT", "REPORTED", "SESSIONS", "BEHIND", "GUARANTEED", "UPLINK")
				for _, n := range page.Items {
					t.row(n.Name, or(n.Agent, "-"), ago(time.Now(), n.ReportedAt), strconv.Itoa(n.Sessions), strconv.Itoa(n.Behind), n.Guaranteed, or(n.Uplink, "-"))
				}
				a.more(page.NextCursor)
			})
		})
	listFlags(cmd, &list)
	return cmd
}
