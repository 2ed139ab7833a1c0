package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/runner/agent"
	"agentyard.dev/services/sessions/sandbox"
	"agentyard.dev/services/standalone/client"
)

// finding is one thing that doctor looked at.
type finding struct {
	Area   string `json:"area"` // isolation, agent, tool, yard
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // what was found, or why it is not there
	Remedy string `json:"remedy,omitempty"` // how to get it
}

func (a *app) doctor() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Say what this machine can isolate, which agents it has and what is missing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found := a.examine(cmd.Context())
			return a.show(map[string]any{"platform": runtime.GOOS + "/" + runtime.GOARCH, "findings": found}, func(t *table) {
				area := ""
				for _, f := range found {
					if f.Area != area {
						area = f.Area
						t.row(strings.ToUpper(area))
					}
					mark := "ok"
					if !f.OK {
						mark = "-"
					}
					t.row("  "+mark, f.Name, strings.TrimSuffix(f.Detail+"; "+f.Remedy, "; "))
				}
			})
		},
	}
}

func (a *app) examine(ctx context.Context) []finding {
	found := isolation(sandbox.Probe())
	found = append(found, agents(ctx)...)
	found = append(found, tool(ctx, "git", "clones repositories into sessions", "install git with the system's package manager"))
	return append(found, a.yard(ctx))
}

// protects says what each kind of isolation is good for.
var protects = map[string]string{
	sandbox.User:   "no privilege of the agent reaches the machine",
	sandbox.Mount:  "the agent sees its workspace and a read-only system, no other files",
	sandbox.PID:    "the agent sees no other processes, and none of its own outlives it",
	sandbox.Cgroup: "memory, processes and CPU of a session are bounded",
	sandbox.UID:    "each session has a user id of its own",
}

func isolation(c sandbox.Capabilities) []finding {
	var found []finding
	have := map[string]bool{}
	for _, name := range c.Isolation() {
		have[name] = true
	}
	for _, name := range sandbox.Known {
		f := finding{Area: "isolation", Name: name, OK: have[name], Detail: protects[name]}
		if !f.OK {
			f.Detail = or(c.Missing[name], "not available")
			if runtime.GOOS != "linux" {
				f.Detail, f.Remedy = "only Linux has it", "run agentyard on Linux, or in a Linux virtual machine"
			}
		}
		found = append(found, f)
	}
	return found
}

// agents looks for every kind at once: some take a second to say their version.
func agents(ctx context.Context) []finding {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	kinds := agent.Kinds()
	all := make([]finding, len(kinds))
	var wg sync.WaitGroup
	for i, k := range kinds {
		wg.Go(func() {
			path, version := k.Probe(ctx, self)
			f := finding{Area: "agents", Name: k.Name, OK: path != "", Detail: strings.TrimSpace(k.Title + " " + version)}
			switch {
			case path == self:
				f.Detail += ", built in"
			case f.OK:
				f.Detail += ", " + path
			case len(k.Argv) == 0:
				f.OK, f.Detail = true, k.Title+", with --command"
			default:
				f.Detail, f.Remedy = k.Title+" is not installed", k.Install
			}
			all[i] = f
		})
	}
	wg.Wait()
	return all
}

// agentKinds lists the kinds' names for completion.
func agentKinds() []string {
	var names []string
	for _, k := range agent.Kinds() {
		names = append(names, k.Name+"\t"+k.Title)
	}
	return names
}

func tool(ctx context.Context, name, purpose, remedy string) finding {
	f := finding{Area: "tools", Name: name, Detail: purpose}
	path, err := exec.LookPath(name)
	if err != nil {
		f.Detail, f.Remedy = "not found; it "+purpose, remedy
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		f.Detail, f.Remedy = fmt.Sprintf("%s does not run: %v", path, err), remedy
		return f
	}
	f.OK, f.Detail = true, line(string(out))+", "+purpose
	return f
}

// yard asks the server that the client commands would use.
func (a *app) yard(ctx context.Context) finding {
	f := finding{Area: "yard", Name: "server"}
	cred, err := a.credential()
	if err != nil {
		f.Detail, f.Remedy = "none is known", "start one with 'agentyard up'"
		return f
	}
	f.Name = cred.URL
	c, err := client.New(cred.URL, cred.Key)
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	me, err := client.Do(ctx, c, api.GetMe, api.None{})
	if err != nil {
		f.Detail, f.Remedy = line(err.Error()), "start it with 'agentyard up', or name another with 'agentyard login URL'"
		return f
	}
	f.OK, f.Detail = true, "you are "+me.Name+" of tenant "+me.Tenant
	return f
}
