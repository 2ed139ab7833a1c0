package cli

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"agentyard.dev/services/standalone"
)

func (a *app) bus() *cobra.Command {
	return group("bus", "Run the message bus apart, for services in processes of their own", nil, a.busInit(), a.busServe())
}

const busAbout = `

DIR gets keys/ (the keyring: guard it), bus/ (what JetStream keeps) and creds/: one file of
credentials for each service, and session.issuer, with which the sessions service mints the
credentials of sessions. Give each service its own file and no other. tcnode.creds is for node
agents, whatever their node; with --node each gets a file of its own, with which it can speak for
its node alone.`

func (a *app) busInit() *cobra.Command {
	var data string
	var nodes []string
	cmd := &cobra.Command{
		Use: "init", Short: "Make the bus's keys and the services' credentials", Args: cobra.NoArgs,
		Long: "Init makes the bus's keys, if there are none, and writes the services' credentials." + busAbout,
		RunE: func(*cobra.Command, []string) error {
			dir, err := a.busData(data)
			if err != nil {
				return err
			}
			_, files, err := standalone.InitBus(dir, nodes...)
			if err != nil {
				return err
			}
			return a.show(map[string]any{"files": files}, func(t *table) {
				for _, f := range files {
					t.row(f)
				}
			})
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "`directory` of the data (default ~/.local/share/agentyard, AGENTAPI_DATA)")
	cmd.Flags().StringSliceVar(&nodes, "node", nil, "`name` of a node that gets credentials of its own for its agent; may be given again")
	return cmd
}

func (a *app) busServe() *cobra.Command {
	var cfg standalone.BusConfig
	cmd := &cobra.Command{
		Use: "serve", Short: "Serve the bus", Args: cobra.NoArgs,
		Long: "Serve runs the bus until it is told to stop, and prints 'ready URL' when services can connect." + busAbout,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Data, err = a.busData(cfg.Data); err != nil {
				return err
			}
			logger := slog.New(slog.NewJSONHandler(a.Err, nil)).With("service", "bus")
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return standalone.ServeBus(ctx, cfg, logger, func(url string) {
				fmt.Fprintln(a.Out, "ready", url)
			})
		},
	}
	cmd.Flags().StringVar(&cfg.Data, "data", "", "`directory` of the data (default ~/.local/share/agentyard, AGENTAPI_DATA)")
	cmd.Flags().StringVar(&cfg.Listen, "listen", "127.0.0.1:4222", "`address` to listen on")
	return cmd
}

func (a *app) busData(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	return a.dataDir()
}
