package promises

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"agentyard.dev/libs/bus"
)

// busMarker is the variable of the environment by which a test binary knows that it is the bus: "<keyring> <store> <address>", each without spaces.
const busMarker = "PROMISES_BUS"

func TestMain(m *testing.M) {
	if what := os.Getenv(busMarker); what != "" {
		if err := serve(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serve is the process of the bus. It ends with its standard input: whoever started it holds the other end.
func serve(what string) error {
	var ringDir, store, listen string
	if _, err := fmt.Sscan(what, &ringDir, &store, &listen); err != nil {
		return err
	}
	ring, err := bus.OpenKeyring(ringDir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	server, err := bus.StartServer(ctx, bus.ServerConfig{Dir: store, Listen: listen, Keyring: ring, MaxStore: 1 << 30})
	if err != nil {
		return err
	}
	defer server.Close()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// build builds the commands of the service into a directory of the test's.
func build(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", dir+"/", "agentyard.dev/services/tcagent/cmd/tcagent", "agentyard.dev/services/tcagent/cmd/tccontroller")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the commands: %v\n%s", err, out)
	}
	return dir
}

// process is a command that is killed and started again.
type process struct {
	t    *testing.T
	name string
	path string
	args []string
	env  []string
	log  *os.File

	cmd *exec.Cmd // nil: it does not run
	in  io.Closer
}

func newProcess(t *testing.T, name, path string, env []string, args ...string) *process {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, name: name, path: path, args: args, env: env, log: log}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			p.tell()
		}
		_ = log.Close()
	})
	return p
}

// start starts it, and does not wait until it works.
func (p *process) start() {
	p.t.Helper()
	if p.cmd != nil {
		return
	}
	cmd := exec.Command(p.path, p.args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, p.log, p.log
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	p.cmd, p.in = cmd, in
}

// kill ends it with SIGKILL, and returns when it is gone.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	err := p.cmd.Wait()
	if state := p.cmd.ProcessState; state == nil || state.Exited() { // by itself
		p.t.Errorf("%s has ended before it was killed: %v", p.name, err)
	}
	_ = p.in.Close()
	p.cmd = nil
}

// tell shows the end of what it said.
func (p *process) tell() {
	const most = 6 << 10
	text, _ := os.ReadFile(p.log.Name())
	p.t.Logf("%s said:\n%s", p.name, text[max(0, len(text)-most):])
}

// address is one of loopback that is free, and not of those that the kernel gives to who asks for any.
func address(t *testing.T) string {
	t.Helper()
	const first, count = 20_000, 12_000
	for range 100 {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(count))))
		if err != nil {
			continue
		}
		_ = l.Close()
		return l.Addr().String()
	}
	t.Fatal("no address is free")
	return ""
}

// eventually waits for what must come.
func eventually(t *testing.T, what string, ok func() (bool, string)) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		good, now := ok()
		if good {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %s", patience, what, now)
		}
	}
}
