package cli

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

// sweep is agentyard sweep: what the services do by the clock, at once or for show.
func (a *app) sweep() *cobra.Command {
	var req api.SweepRequest
	cmd := a.command("sweep", "Remove or end what is past its time, which services do by themselves now and then, or show it (operator only)", cobra.NoArgs,
		func(cmd *cobra.Command, c *client.Client, _ []string) error {
			all := api.SweepReport{DryRun: req.DryRun, Counts: map[api.SweepKind]int{}, Items: []api.SweepItem{}}
			for _, op := range []api.Op[api.SweepRequest, api.SweepReport]{api.SweepSessions, api.SweepTasks} {
				r, err := client.Do(cmd.Context(), c, op, req)
				if err != nil {
					return err
				}
				for kind, n := range r.Counts {
					all.Counts[kind] += n
				}
				all.Items, all.Problems = append(all.Items, r.Items...), append(all.Problems, r.Problems...)
			}
			return a.showSweep(all)
		})
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "only show what would be removed or ended")
	return cmd
}

func (a *app) showSweep(r api.SweepReport) error {
	return a.show(r, func(t *table) {
		if len(r.Items) > 0 {
			t.row("KIND", "TENANT", "ID", "DUE SINCE", "REASON")
		}
		now := time.Now()
		for _, i := range r.Items {
			t.row(string(i.Kind), i.Tenant, i.ID, ago(now, i.Since), i.Reason)
		}
		total := 0
		for _, kind := range slices.Sorted(maps.Keys(r.Counts)) {
			total += r.Counts[kind]
		}
		if left := total - len(r.Items); left > 0 {
			a.hint("and %d more", left)
		}
		if total == 0 {
			a.hint("nothing is due")
		}
		for _, p := range r.Problems {
			fmt.Fprintln(a.Err, p)
		}
	})
}
