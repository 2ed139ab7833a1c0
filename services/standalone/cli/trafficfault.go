package cli

import (
	"time"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

func (a *app) faultStart() *cobra.Command {
	var req api.CreateTrafficFaultRequest
	var lasts time.Duration
	cmd := a.command("start SESSION", "Delay, lose, double or slow a session's packets; it ends by itself", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *client.Client, args []string) error {
			req.Session, req.For = args[0], api.Duration(lasts)
			f, err := client.Do(cmd.Context(), c, api.CreateTrafficFault, req)
			if err != nil {
				return err
			}
			return a.show(f, func(t *table) { t.row(f.Session, "until", stamp(&f.Until), f.State) })
		})
	cmd.Long = "Start puts a fault on one session's traffic, in place of the one that it has. The node's kernel ends it at its time, whoever has died\n" +
		"until then. Only admins may. 'agentyard traffic fault list' says whether it is in force, which takes a network of the session's own."
	cmd.Example = "  agentyard traffic fault start s4k2… --loss 5% --rate 1Mbit --for 2m"
	cmd.Flags().DurationVar(&lasts, "for", 5*time.Minute, "how long, from 1s to 1h")
	cmd.Flags().StringVar(&req.Direction, "direction", "", "upload or download; empty: both")
	cmd.Flags().StringVar(&req.Delay, "delay", "", "each packet is late by this `time`, such as 100ms")
	cmd.Flags().StringVar(&req.Jitter, "jitter", "", "and by as much more or less: a `time`, such as 20ms")
	cmd.Flags().StringVar(&req.Loss, "loss", "", "`part` of the packets that does not arrive, such as 1%")
	cmd.Flags().StringVar(&req.Duplicate, "duplicate", "", "`part` of the packets that arrives twice, such as 0.5%")
	cmd.Flags().StringVar(&req.Rate, "rate", "", "`rate` that the direction has no more than, such as 1Mbit")
	return cmd
}

func (a *app) faultList() *cobra.Command {
	return a.command("list", "List the faults that have not ended", cobra.NoArgs,
		func(cmd *cobra.Command, c *client.Client, _ []string) error {
			page, err := client.Do(cmd.Context(), c, api.ListTrafficFaults, api.List{Limit: api.MaxLimit})
			if err != nil {
				return err
			}
			return a.show(page.Items, func(t *table) {
				t.row("SESSION", "WAY", "DELAY", "JITTER", "LOSS", "DUPLICATE", "RATE", "UNTIL", "BY", "STATE")
				for _, f := range page.Items {
					t.row(f.Session, or(f.Direction, "both"), or(f.Delay, "-"), or(f.Jitter, "-"), or(f.Loss, "-"), or(f.Duplicate, "-"), or(f.Rate, "-"),
						stamp(&f.Until), f.By, f.State)
				}
			})
		})
}

func (a *app) faultStop() *cobra.Command {
	return a.command("stop SESSION", "End a session's fault now", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *client.Client, args []string) error {
			_, err := client.Do(cmd.Context(), c, api.DeleteTrafficFault, api.TrafficFaultRef{Session: args[0]})
			return err
		})
}
