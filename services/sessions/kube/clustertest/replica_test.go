//go:build cluster

package clustertest_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/token"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/kube"
	"agentyard.dev/services/sessions/kube/clustertest"
)

// replicaReady is what a replica logs when it answers.
const replicaReady = "this replica answers"

// replicaConfig is what a replica is told.
type replicaConfig struct {
	Sessions            sessions.Config
	Kube                kube.Config
	Bus                 string
	Issuer, Credentials []byte
	Keys                map[string]ed25519.PublicKey
}

// beReplica is a sessions service in a process of its own, until it is killed.
func beReplica() int {
	err := runReplica(context.Background())
	fmt.Fprintln(os.Stderr, "replica:", err)
	return 1
}

func runReplica(ctx context.Context) error {
	var in replicaConfig
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		return err
	}
	issuer, err := bus.ParseSessionIssuer(in.Issuer)
	if err != nil {
		return err
	}
	reach, err := in.Kube.Connect()
	if err != nil {
		return err
	}
	conn, err := bus.Connect(bus.Config{URL: in.Bus, Credentials: in.Credentials, Name: "sessions"})
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	runtime := kube.New(in.Kube, kube.Deps{Cluster: reach, BusURL: in.Bus, Credentials: issuer.PodCredentials, Logger: logger})
	service := sessions.New(in.Sessions, sessions.Deps{
		Conn: conn, Auth: token.NewVerifier(keys(in.Keys), nil, nil), Issuer: issuer, BusURL: in.Bus, Runtime: runtime, Info: runtime.Info(),
		Kind: known, CheckURL: anyURL, Logger: logger,
	})
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { _ = runtime.Run(ctx) })
	parts.Go(func() {
		for service.Ready(ctx) != nil {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
		logger.Info(replicaReady)
	})
	return service.Run(ctx)
}

// replica is one as the test sees it.
type replica struct {
	t     *testing.T
	cmd   *exec.Cmd
	ready chan struct{}
	leads chan time.Time // when it began to reconcile
	end   func()
}

// replica starts a replica of the service as a process. It lives until the test ends or kills it.
func (y *yard) replica(cfg sessions.Config, kcfg kube.Config) *replica {
	t := y.t
	t.Helper()
	creds, err := y.ring.ServiceCredentials("sessions")
	if err != nil {
		t.Fatal(err)
	}
	kcfg.Kubeconfig = clustertest.Cluster().Kubeconfig
	text, err := json.Marshal(replicaConfig{Sessions: cfg, Kube: kcfg, Bus: y.srv.URL(), Issuer: y.issuer.Marshal(), Credentials: creds, Keys: y.keys})
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{t: t, cmd: exec.Command(os.Args[0], "replica"), ready: make(chan struct{}), leads: make(chan time.Time, 1)}
	r.cmd.Stdin, r.cmd.Stderr = bytes.NewReader(text), os.Stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.end = sync.OnceFunc(func() {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	})
	read := make(chan struct{})
	go func() {
		defer close(read)
		r.read(out)
	}()
	t.Cleanup(func() { _ = r.cmd.Process.Kill(); <-read; r.end() })
	return r
}

// read takes a replica's log.
func (r *replica) read(log io.Reader) {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Time time.Time `json:"time"`
			Msg  string    `json:"msg"`
		}
		fmt.Fprintf(r.t.Output(), "%d %s\n", r.cmd.Process.Pid, lines.Text())
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			continue
		}
		switch line.Msg {
		case replicaReady:
			close(r.ready)
		case "this replica reconciles":
			select {
			case r.leads <- line.Time:
			default:
			}
		}
	}
}

// awaits waits for something that a replica does.
func awaits[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain: %s", what)
		panic("not reached")
	}
}

// kill ends a replica as the kernel would when memory is short, and returns when.
func (r *replica) kill() time.Time {
	now := time.Now()
	r.end()
	return now
}
