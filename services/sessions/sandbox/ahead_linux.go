package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"agentyard.dev/services/sessions/launch"
)

const (
	// ordersFD is where an init that was started ahead finds its orders.
	ordersFD = 3
	// ordersTimeout bounds how long init may take to read them.
	ordersTimeout = 10 * time.Second
)

// Ahead is a sandbox that is started before anybody knows what for. Its init is in namespaces of its own and in its cgroup, which are the same
// for each session and take most of the time; it waits for its orders. It runs nothing and shows nothing to anybody until it has them.
type Ahead struct {
	// Cmd is the command to start, with the rules of [Command]; [Kill] ends it.
	Cmd *exec.Cmd

	spec         launch.Sandbox
	orders, read *os.File
}

// Prepare returns a sandbox to be started ahead: of spec it takes the isolation, the network and, if there is one already, the cgroup.
func Prepare(spec launch.Sandbox) (*Ahead, error) {
	spec = launch.Sandbox{Isolation: spec.Isolation, Cgroup: spec.Cgroup, Network: spec.Network, Namespace: spec.Namespace}
	cmd, err := command(config{Sandbox: spec, Ahead: true}, nil)
	if err != nil {
		return nil, err
	}
	read, orders, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	cmd.ExtraFiles = append([]*os.File{read}, cmd.ExtraFiles...) // ordersFD
	return &Ahead{Cmd: cmd, spec: spec, orders: orders, read: read}, nil
}

// Order has the started sandbox go on as if [Command] had been given the same, which must agree with what it was prepared for. It works once;
// after an error the sandbox is of no use and to be dropped.
func (a *Ahead) Order(spec launch.Sandbox, dir string, argv, env []string) error {
	defer a.Drop()
	if !slices.Equal(spec.Isolation, a.spec.Isolation) || (a.spec.Cgroup != "" && spec.Cgroup != a.spec.Cgroup) ||
		spec.Network.Address != a.spec.Network.Address || spec.Namespace != a.spec.Namespace {
		return errors.New("sandbox: it was prepared for something else")
	}
	cfg, err := configure(spec, dir, argv, env)
	if err != nil {
		return err
	}
	if err := cfg.checkUID(os.Geteuid()); err != nil {
		return err
	}
	cfg.Env = env
	text, err := json.Marshal(cfg)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	a.read.Close() // init's end alone is left: if init is gone, writing says so
	_ = a.orders.SetWriteDeadline(time.Now().Add(ordersTimeout))
	if _, err := a.orders.Write(text); err != nil {
		return fmt.Errorf("sandbox: give orders: %w", err)
	}
	return nil
}

// Drop ends a sandbox that has had no orders, started or not. After orders it does nothing.
func (a *Ahead) Drop() {
	a.read.Close()
	a.orders.Close()
}

// await returns the orders of an init that was started ahead as cfg says.
func (c config) await() (config, error) {
	// They hold the agent's environment: nobody of the same user id may look on.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return c, fmt.Errorf("hide memory: %w", err)
	}
	unix.CloseOnExec(ordersFD)
	f := os.NewFile(ordersFD, "orders")
	defer f.Close()
	var orders config
	if err := json.NewDecoder(f).Decode(&orders); err != nil {
		return c, fmt.Errorf("read orders: %w", err) // of one that is dropped: EOF
	}
	os.Clearenv()
	for _, kv := range orders.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			if err := os.Setenv(k, v); err != nil {
				return c, fmt.Errorf("take environment: %w", err)
			}
		}
	}
	if c.Cgroup == "" {
		if err := joinCgroup(orders); err != nil {
			return c, err
		}
	}
	return orders, nil
}
