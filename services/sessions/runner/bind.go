package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions/launch"
)

const (
	// BindVerb is the subcommand that is the runner of a pod: it asks the yard for its launch.
	BindVerb = "bind"
	// InstallVerb is the subcommand that copies this binary, for images that do not have it.
	InstallVerb = "install"
)

// What a pod knows before it is bound, in its environment. It is of no use to anybody afterwards, and before that for asking once.
const (
	EnvBusURL      = "AGENTYARD_BUS_URL"
	EnvCredentials = "AGENTYARD_BUS_CREDENTIALS" //nolint:gosec // a variable's name
	EnvID          = "AGENTYARD_POD_ID"          // by which the credentials know it
	EnvPod         = "AGENTYARD_POD"             // its name
	EnvUID         = "AGENTYARD_POD_UID"
	EnvIP          = "AGENTYARD_POD_IP"
)

// Pod is what a pod knows before it is bound.
type Pod struct {
	BusURL, Credentials, ID, Name, UID, IP string
}

// PodFromEnvironment reads what the runtime gave the pod.
func PodFromEnvironment(getenv func(string) string) Pod {
	return Pod{
		BusURL: getenv(EnvBusURL), Credentials: getenv(EnvCredentials), ID: getenv(EnvID),
		Name: getenv(EnvPod), UID: getenv(EnvUID), IP: getenv(EnvIP),
	}
}

const (
	bindTimeout = 10 * time.Second // of one try
	bindFirst   = 50 * time.Millisecond
	bindMost    = 2 * time.Second
	bindHeld    = time.Second // longer than an answer takes that was not held back
)

// Bind asks for the pod's launch until the yard answers: it tells it, or that the pod is not wanted, which is an error (conflict, denied).
// The launch's credential is the session's own; the pod's is of no use from here on.
func (p Pod) Bind(ctx context.Context, log *slog.Logger) (launch.Launch, error) {
	var l launch.Launch
	opener, err := launch.NewOpener()
	if err != nil {
		return l, fmt.Errorf("make a key: %w", err)
	}
	conn, err := bus.Connect(bus.Config{URL: p.BusURL, Credentials: []byte(p.Credentials), Name: "pod-" + p.Name, Logger: log, Brief: true})
	if err != nil {
		return l, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // nothing is under way
	client := rpc.NewClient(conn, rpc.ClientConfig{Name: "runner", Timeout: bindTimeout})
	for wait := bindFirst; ; wait = min(2*wait, bindMost) {
		began := time.Now()
		res, err := rpc.CallAsSession(ctx, client, api.PodTenant, p.ID, api.RunnerBind, api.RunnerBindRequest{Pod: p.Name, UID: p.UID, Key: opener.Public()})
		switch api.CodeOf(err) {
		case api.CodeUnavailable, api.CodeExhausted:
			if time.Since(began) > bindHeld { // a pod that waits for a session is kept on the line
				wait = bindFirst / 2
				break
			}
			log.Info("not bound yet", "op", api.RunnerBind.Verb, "code", api.CodeOf(err), "err", err)
		default:
			text := []byte(res.Launch) // of a service of an earlier release
			if err == nil && len(res.Sealed) > 0 {
				text, err = opener.Open(p.ID, p.UID, res.Sealed)
			}
			if err == nil {
				err = json.Unmarshal(text, &l)
			}
			if err == nil {
				l.Endpoint = p.endpoint(l.Listen)
			}
			return l, err
		}
		select {
		case <-time.After(wait/2 + rand.N(wait)): //nolint:gosec // so that not all ask at once
		case <-ctx.Done():
			return l, ctx.Err()
		}
	}
}

// endpoint is how others reach what listens on every address of the pod.
func (p Pod) endpoint(listen string) string {
	network, address, _ := cutAddress(listen)
	_, port, err := net.SplitHostPort(address)
	if network != "tcp" || err != nil || p.IP == "" {
		return ""
	}
	return "http://" + net.JoinHostPort(p.IP, port)
}

// MainPod is a program that is the runner of a pod. It returns the exit status: 0 after a stop and when the yard does not want the pod, 1
// after a failure.
func MainPod(stderr io.Writer) int {
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	if err := hideMemory(); err != nil { // as in Main; it hides the environment, too
		log.Error("hide memory", "err", err)
		return 1
	}
	pod := PodFromEnvironment(os.Getenv)
	path, err := forget()
	if err != nil {
		log.Error("clear environment", "err", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	l, err := pod.Bind(ctx, log)
	switch {
	case ctx.Err() != nil:
		return 0
	case err != nil:
		log.Error("bind", "code", api.CodeOf(err), "err", err)
		return 1
	}
	return drive(ctx, l, Options{Logger: log, Path: path})
}

// forget empties the environment but for PATH, which it returns, and for where the certificates of authorities are that this program
// trusts, such as the one behind the bus. Agents get neither of it: their environment is built from nothing.
func forget() (path string, err error) {
	kept := map[string]string{}
	for _, name := range []string{"PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"} { // git is found in PATH
		if v, ok := os.LookupEnv(name); ok {
			kept[name] = v
		}
	}
	os.Clearenv()
	for name, v := range kept {
		if err := os.Setenv(name, v); err != nil {
			return "", err
		}
	}
	return kept["PATH"], nil
}

// drive runs a launch and returns the exit status.
func drive(ctx context.Context, l launch.Launch, opts Options) int {
	log := opts.Logger
	self, err := os.Executable()
	if err != nil {
		log.Error("find own executable", "err", err)
		return 1
	}
	opts.Self = self
	context.AfterFunc(ctx, func() {
		time.AfterFunc(stopTimeout, func() { os.Exit(1) }) // a graceful stop that hangs
	})
	if l.Agent.Kind == "" {
		l.Agent.Kind = "demo"
	}
	err = Run(ctx, l, opts)
	switch {
	case errors.Is(err, bus.ErrSuperseded):
		log.Warn("another runner has taken over", "session", l.Session)
		return 0
	case err != nil:
		log.Error("runner", "session", l.Session, "err", err)
		return 1
	}
	return 0
}

// Install copies this binary to path, executable. It returns the exit status.
func Install(path string, stderr io.Writer) int {
	if err := install(path); err != nil {
		fmt.Fprintln(stderr, "runner: install:", err)
		return 1
	}
	return 0
}

func install(path string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	in, err := os.Open(self)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // for the agent's own container
		return err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755) //nolint:gosec // it is a program
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
