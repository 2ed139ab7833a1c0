package cli

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/daemon"
	"agentyard.dev/services/gateway"
	"agentyard.dev/services/standalone"
)

const upAbout = `Up runs all of agentyard in this process until it is told to stop, and prints 'ready URL' when
it answers. It keeps everything in the data directory, where it also writes the first admin's API key. Stopped
gracefully it stops the sessions' processes, and the next start brings them back where they were. Killed it leaves
them at work, and the next start finds them again.

`

func (a *app) up() *cobra.Command {
	cfg := standalone.DefaultConfig()
	if tty(a.Err) { // a person at a terminal wants to read what goes wrong, and little else
		cfg.Daemon.LogLevel, cfg.Daemon.LogFormat = "warn", "text"
	}
	settings := flag.NewFlagSet("agentyard up", flag.ContinueOnError)
	settings.SetOutput(a.Out)
	cfg.Register(settings)
	return &cobra.Command{
		Use: "up [flags]", Short: "Start a yard on this machine", Long: upAbout,
		// The services' own flags, which daemon.ParseFlags reads with their environment variables.
		DisableFlagParsing: true,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var flags []string
			settings.VisitAll(func(f *flag.Flag) { flags = append(flags, "--"+f.Name+"\t"+f.Usage) })
			return flags, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if slices.ContainsFunc(args, func(s string) bool { return s == "-h" || s == "--help" || s == "-help" }) {
				fmt.Fprint(a.Out, upAbout)
			}
			err := daemon.ParseFlags(settings, args, a.Getenv)
			switch {
			case errors.Is(err, flag.ErrHelp):
				return nil
			case err != nil:
				return usage(err)
			case settings.NArg() > 0:
				return usage(fmt.Errorf("unexpected argument %q", settings.Arg(0)))
			}
			if cfg.Data == "" {
				if cfg.Data, err = standalone.DefaultData(a.Getenv); err != nil {
					return err
				}
			}
			return standalone.Run(cmd.Context(), cfg, standalone.Deps{
				Version: version(), Log: a.Err,
				Ready: func(url string) { a.welcome(url, cfg.Data) },
			})
		},
	}
}

// welcome prints the one line that programs wait for and, beside it, what a person does next.
func (a *app) welcome(url, data string) {
	program := "agentyard"
	if strings.Contains(os.Args[0], "/") {
		program = os.Args[0] // it may not be on the PATH
	}
	fmt.Fprintln(a.Out, "ready", url)
	where := ""
	if dir, err := standalone.DefaultData(a.Getenv); err != nil || dir != data {
		where = "AGENTAPI_DATA=" + data + " "
	}
	fmt.Fprintf(a.Err, "\n  admin key   %s\n  API         %s/docs\n  try it      %s%s session create --agent demo -m 'run uname -a' --follow\n  stop        Ctrl-C; sessions come back with the next start\n\n",
		filepath.Join(data, standalone.AdminKeyFile), url, where, program)
}

// hidden are the commands that agentyard's own makefile calls.
func (a *app) hidden() []*cobra.Command {
	return []*cobra.Command{{
		Use: "openapi", Short: "Print the OpenAPI document", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			doc, err := gateway.OpenAPI()
			if err != nil {
				return err
			}
			_, err = a.Out.Write(doc)
			return err
		},
	}}
}
