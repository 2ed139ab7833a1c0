package cli

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

// topSessions is how many sessions 'traffic top' shows: more do not fit on a screen.
const topSessions = 50

func (a *app) trafficTop() *cobra.Command {
	var once bool
	cmd := a.command("top [SESSION...]", "Show what sessions send and receive now, class by class", cobra.ArbitraryArgs,
		func(cmd *cobra.Command, c *client.Client, args []string) error {
			once = once || !tty(a.Out) || a.output == "json"
			tick := time.NewTicker(time.Second) // as often as nodes count
			defer tick.Stop()
			for {
				now, err := trafficNow(cmd.Context(), c, args)
				if err != nil {
					return err
				}
				if !once {
					if _, err := a.Out.Write([]byte("\x1b[H\x1b[2J")); err != nil { // to the top of a clean screen
						return err
					}
				}
				if err := a.show(now, func(t *table) { showTop(t, now) }); err != nil || once {
					return err
				}
				select {
				case <-tick.C:
				case <-cmd.Context().Done():
					return cmd.Context().Err()
				}
			}
		})
	cmd.Long = "Top shows the sessions that are named, or up to 50 that run, again each second until it is interrupted. Without a\nterminal it shows them once."
	cmd.Flags().BoolVar(&once, "once", false, "show once")
	return cmd
}

// trafficNow asks for the traffic of the sessions, or of those that run.
func trafficNow(ctx context.Context, c *client.Client, ids []string) ([]api.TrafficSession, error) {
	named := len(ids) > 0
	if !named {
		page, err := client.Do(ctx, c, api.ListSessions, api.ListSessionsRequest{List: api.List{Limit: topSessions}, State: api.StateRunning})
		if err != nil {
			return nil, err
		}
		for _, s := range page.Items {
			ids = append(ids, s.ID)
		}
	}
	now := []api.TrafficSession{}
	for _, id := range ids {
		s, err := client.Do(ctx, c, api.GetTrafficSession, api.SessionRef{ID: id})
		if !named && errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			continue // it has just begun, or ended
		}
		if err != nil {
			return nil, err
		}
		now = append(now, s)
	}
	return now, nil
}

func showTop(t *table, sessions []api.TrafficSession) {
	t.row("SESSION", "NODE", "MODE", "WAY", "CLASS", "RATE", "BYTES", "DROPS", "BACKLOG")
	for _, s := range sessions {
		if s.Counters == nil {
			t.row(s.Session, or(s.Node, "-"), s.Effective.Mode, "-", "-", "-", "-", "-", "-")
			continue
		}
		for _, d := range []struct {
			way     string
			classes []api.TrafficClassCount
		}{{"down", s.Counters.Download}, {"up", s.Counters.Upload}} {
			for _, c := range d.classes {
				t.row(s.Session, or(s.Node, "-"), s.Effective.Mode, d.way, c.Class, c.Rate,
					strconv.FormatUint(c.Bytes, 10), strconv.FormatUint(c.Drops, 10), strconv.FormatUint(c.Backlog, 10))
			}
		}
		for _, l := range s.Counters.Limits {
			t.row(s.Session, or(s.Node, "-"), s.Effective.Mode, l.Direction, "limit "+l.Limit, "-", "-", strconv.FormatUint(l.Packets, 10), "-")
		}
	}
}
