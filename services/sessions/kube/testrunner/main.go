// Command testrunner is what runtimetest.Env wants of a runner, as a pod has it: it asks for its launch, says on its endpoint that it is up, ends when it is
// asked to unless it is stubborn, and starts an agent that leaves detached processes if the launch says so.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/runner"
	"agentyard.dev/services/sessions/runtimetest"
	"agentyard.dev/services/sessions/sandbox"
)

func main() {
	sandbox.MaybeInit()
	switch {
	case len(os.Args) > 1 && os.Args[1] == runner.BindVerb:
		os.Exit(run())
	case len(os.Args) > 1 && os.Args[1] == "agent":
		os.Exit(agent(os.Args[2:]))
	}
	os.Exit(2)
}

func run() int {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	l, err := runner.PodFromEnvironment(os.Getenv).Bind(context.Background(), log)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bind:", err)
		return 1
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	if err := os.MkdirAll(filepath.Join(l.Dir, "workspace"), 0o700); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if l.Env["FAIL"] != "" {
		fmt.Fprintln(os.Stderr, "line one\nline two\nit was not to be")
		return 3
	}
	if l.Env["HUNGRY"] != "" {
		eat()
	}
	if l.Env[runtimetest.Daemons] != "" {
		exe, _ := os.Executable()
		cmd, err := sandbox.Command(l.Sandbox, filepath.Join(l.Dir, "workspace"), []string{exe, "agent", l.Session}, []string{"PATH=/usr/bin:/bin"})
		if err == nil {
			cmd.Stderr = os.Stderr
			err = cmd.Start()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			return 1
		}
		defer func() { _ = sandbox.Kill(cmd); _ = cmd.Wait() }()
	}
	go serve(l)
	for range stop {
		if l.Env[runtimetest.Stubborn] == "" {
			break
		}
	}
	return 0
}

// eat takes memory until the kernel ends it.
func eat() {
	var eaten [][]byte
	for range 1 << 12 {
		piece := make([]byte, 1<<20)
		for i := range piece {
			piece[i] = 1
		}
		eaten = append(eaten, piece)
	}
	fmt.Fprintln(os.Stderr, "still hungry after", len(eaten))
}

// serve answers everything with the launch's session and incarnation.
func serve(l launch.Launch) {
	_, address, _ := strings.Cut(l.Listen, ":")
	srv := &http.Server{Addr: address, ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"session": l.Session, "incarnation": l.Incarnation, "endpoint": l.Endpoint, "env": os.Environ()})
	})}
	fmt.Fprintln(os.Stderr, "serve:", srv.ListenAndServe())
	os.Exit(1)
}

// agent leaves detached processes and waits.
func agent(args []string) int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP)
	if len(args) == 1 {
		for range 2 {
			cmd := exec.Command(os.Args[0], "agent", args[0], "daemon")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := cmd.Start(); err != nil {
				return 1
			}
		}
	}
	wait := make(chan os.Signal, 1)
	signal.Notify(wait, syscall.SIGUSR1)
	<-wait
	return 0
}
