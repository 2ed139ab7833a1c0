// Package cli is the agentyard command: it starts a yard, and it is a client of one.
//
// Standard output carries what was asked for and nothing else; progress and hints go to
// standard error, and only to a terminal. With -o json the output is what the API answers.
package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Env is the process as a command sees it.
type Env struct {
	In     io.Reader
	Out    io.Writer
	Err    io.Writer
	Getenv func(string) string
}

// app is what all commands share: the process and the global flags.
type app struct {
	Env
	server string // --url
	output string // -o
}

// Main runs the command line args (without the program's name) and returns its exit status.
func Main(ctx context.Context, args []string, env Env) int {
	a := &app{Env: env}
	root := a.root() //nolint:contextcheck // commands get ctx from cobra
	root.SetArgs(args)
	root.SetIn(env.In)
	root.SetOut(env.Out)
	root.SetErr(env.Err)
	cmd, err := root.ExecuteContextC(ctx)
	return a.report(cmd, err)
}

const about = `agentyard runs coding agents, each isolated in a session of its own, and gives you
one API to all of them.

  agentyard up                                        start a yard on this machine
  agentyard session create --agent demo -m 'run ls' --follow
  agentyard session attach ID                         talk to it

A client command finds its server in this order: --url, $AGENTYARD_URL, what 'agentyard
login' stored, the yard that 'agentyard up' runs on this machine. $AGENTYARD_KEY is the API
key to present instead of the stored one. The key of one server is never sent to another.

Exit status:
  0  done                                  4  no valid credential, or not permitted
  1  another error, or the session failed  5  out of time, or the server is unavailable
  2  the command or the request is wrong   6  in conflict with the present state
  3  there is no such thing                7  a quota or rate limit is exhausted`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "agentyard",
		Short:         "A yard for coding agents",
		Long:          about,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version(),
	}
	root.SetVersionTemplate("agentyard {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(err) })
	root.PersistentFlags().StringVar(&a.server, "url", "", "the server's address")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "table", "output `format`: table or json")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.output != "table" && a.output != "json" {
			return usage(fmt.Errorf("-o %s: want table or json", a.output))
		}
		return nil
	}
	root.AddGroup(&cobra.Group{ID: "client", Title: "Using a yard:"}, &cobra.Group{ID: "server", Title: "Running a yard:"})
	in := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	in("client", a.login(), a.logout(), a.session(), a.task(), a.queue(), a.schedule(), a.webhook(), a.profile(), a.secret(), a.traffic(), a.keys(), a.users(), a.tenants())
	in("server", a.up(), a.doctor(), a.bus(), a.sweep())
	root.AddCommand(a.versionCommand())
	root.AddCommand(a.hidden()...)
	strict(root)
	return root
}

// group returns a command that only has subcommands.
func group(use, short string, aliases []string, cmds ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Aliases: aliases}
	g.AddCommand(cmds...)
	return g
}

// strict makes each argument error a usage error, and refuses unknown subcommands, which cobra by itself takes
// for a request for help.
func strict(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		strict(c)
	}
	if cmd.HasSubCommands() && cmd.Run == nil && cmd.RunE == nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(unknownCommand(cmd, args[0]))
			}
			return cmd.Help()
		}
		cmd.Args = cobra.ArbitraryArgs
		return
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if err == nil {
				return nil
			}
			return usage(fmt.Errorf("%s: want %s", given(args), cmd.UseLine()))
		}
	}
}

// given says how many arguments there are.
func given(args []string) string {
	switch len(args) {
	case 0:
		return "an argument is missing"
	case 1:
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", len(args))
}

// unknownCommand names what cmd has that looks like name.
func unknownCommand(cmd *cobra.Command, name string) error {
	cmd.SuggestionsMinimumDistance = 2
	if like := cmd.SuggestionsFor(name); len(like) > 0 {
		return fmt.Errorf("unknown command %q; did you mean %s?", name, strings.Join(like, " or "))
	}
	return fmt.Errorf("unknown command %q", name)
}

// tty reports whether w (or r) is a terminal.
func tty(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// hint says something helpful to a person, and nothing to a pipe.
func (a *app) hint(format string, args ...any) {
	if tty(a.Err) {
		fmt.Fprintf(a.Err, format+"\n", args...)
	}
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of this program", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return a.show(map[string]string{"version": version()}, func(t *table) { t.row("agentyard", version()) })
		},
	}
}

// version is the module's version, or the commit that was built.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	rev, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			rev = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	if rev == "" {
		return "devel"
	}
	return "devel-" + rev + dirty
}
