// Package sandbox separates an agent's processes from the runner that drives them and from the machine.
//
// [Command] returns an exec.Cmd that re-executes the current binary as the sandbox's init, which is process 1 of new
// namespaces: it hides what the agent must not see, drops every privilege, starts the agent, forwards signals to it and reaps. When the agent or init or the caller dies,
// the kernel kills every process of the sandbox, detached daemons included. [Probe] tells what this machine allows, by trying.
//
// A binary that uses the package calls [MaybeInit] first in main (a test binary in TestMain).
//
// Only Linux isolates. Elsewhere Probe reports nothing and the agent merely gets a session of its own.
package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"

	"agentyard.dev/services/sessions/launch"
)

// What a sandbox can isolate: the values of launch.Sandbox.Isolation and api.Profile.Isolation.
const (
	User   = "user"   // a user namespace: no capability reaches the machine
	Mount  = "mount"  // a file system view of its own: read-only but for the session's directories
	PID    = "pid"    // sees, signals and traces its own processes only
	Cgroup = "cgroup" // memory, processes and CPU are bounded together
	UID    = "uid"    // a user id of its own per session
)

// Known lists every kind of isolation.
var Known = []string{User, Mount, PID, Cgroup, UID}

// Capabilities is what the machine lets this process isolate.
type Capabilities struct {
	User   bool         `json:"user"`
	Mount  bool         `json:"mount"`
	PID    bool         `json:"pid"`
	UID    bool         `json:"uid"`
	Cgroup CgroupLimits `json:"cgroup"`
	// Missing says why something cannot be had, by its name, for a person.
	Missing map[string]string `json:"missing,omitempty"`
}

// CgroupLimits is which limits a cgroup made here can carry. Version is 0 (none), 1 or 2.
type CgroupLimits struct {
	Version int  `json:"version"`
	PIDs    bool `json:"pids"`
	Memory  bool `json:"memory"`
	CPU     bool `json:"cpu"`
}

// Isolation lists what can be had, in the order of Known.
func (c Capabilities) Isolation() []string {
	var have []string
	for name, ok := range map[string]bool{User: c.User, Mount: c.Mount, PID: c.PID, UID: c.UID, Cgroup: c.Cgroup.Version > 0} {
		if ok {
			have = append(have, name)
		}
	}
	slices.SortFunc(have, func(a, b string) int { return slices.Index(Known, a) - slices.Index(Known, b) })
	return have
}

// Lacks returns those of want that cannot be had.
func (c Capabilities) Lacks(want []string) []string {
	have := c.Isolation()
	var lacks []string
	for _, w := range want {
		if !slices.Contains(have, w) {
			lacks = append(lacks, w)
		}
	}
	return lacks
}

// Probe tries what this machine allows, once per process; later calls return the first answer. It
// starts the current binary a few times, which must call MaybeInit.
func Probe() Capabilities { return probeOnce() }

var probeOnce = sync.OnceValue(probe)

// initVerb is the hidden first argument of the binary when it is a sandbox's init.
const initVerb = "sandbox"

// config is init's second argument, which holds no secrets: a process list shows it.
type config struct {
	launch.Sandbox
	Work  string   `json:"work,omitempty"` // the agent's working directory
	Argv  []string `json:"argv,omitempty"`
	Probe string   `json:"probe,omitempty"` // "setup": end with success instead of starting an agent
	// MapUID and MapGID are the caller's ids, which mean the same inside the user namespace.
	MapUID int `json:"map_uid,omitempty"`
	MapGID int `json:"map_gid,omitempty"`
	// Ahead has init wait for its orders: another config, which is not seen anywhere and holds the agent's environment.
	Ahead bool     `json:"ahead,omitempty"`
	Env   []string `json:"env,omitempty"`
	// NetworkFD is where init finds the session's network namespace; 0: it has none.
	NetworkFD int `json:"network_fd,omitempty"`
}

func (c config) has(isolation string) bool { return slices.Contains(c.Isolation, isolation) }

// MaybeInit becomes a sandbox's init, and does not return, when the process was started as one.
func MaybeInit() {
	if len(os.Args) >= 2 && os.Args[1] == initVerb {
		os.Exit(Main(os.Args[2:]))
	}
}

// Main is the sandbox's init: args are those after the verb. It returns the exit status: the agent's own,
// 128 + n when signal n ended it, 127 when the agent cannot be started and 125 when the sandbox cannot be made,
// after saying why on standard error.
func Main(args []string) int {
	var cfg config
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), &cfg) != nil || (len(cfg.Argv) == 0 && cfg.Probe == "" && !cfg.Ahead) {
		fmt.Fprintln(os.Stderr, "sandbox: this command is started by agentyard itself")
		return 2
	}
	return runInit(cfg)
}
