//go:build cluster

package clustertest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"agentyard.dev/deploy/cluster"
	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/kube"
	"agentyard.dev/services/sessions/kube/clustertest"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/runtimetest"
)

const (
	patience    = 3 * time.Minute // on a machine that has much else to do
	testImage   = "localhost/agentyard/testrunner:dev"
	runnerImage = "localhost/agentyard/runner:dev"
	shellImage  = "localhost/agentyard/shell:dev" // somebody else's, without a runner
	gitProgram  = "/usr/bin/git"
	spareNode   = "node3" // of the test that cuts it off
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "owner":
			os.Exit(owner())
		case "replica":
			os.Exit(beReplica())
		}
	}
	shell := []string{"-add", "/usr/bin/busybox:/bin/sh", "-add", "/usr/bin/busybox:/bin/busybox"}
	clustertest.Main(m, cluster.Config{Nodes: 3, NodeGrace: 8 * time.Second}, spareNode,
		clustertest.Image{Name: testImage, Args: []string{"-package", "./services/sessions/kube/testrunner", "-user", "999:999", "-path", "/runner"}},
		clustertest.Image{Name: runnerImage, Args: append([]string{"-service", "runner"}, shell...), Programs: []string{gitProgram}},
		clustertest.Image{Name: collectorImage, Args: []string{"-package", "./services/sessions/kube/testcollector", "-user", "999:999", "-path", "/collector"}},
		clustertest.Image{Name: shellImage, Args: append([]string{"-binary", "/usr/bin/busybox"}, shell...)},
	)
}

// env implements runtimetest.Env: a namespace, a bus that pods reach, and what the sessions service does when a pod asks for its launch.
type env struct {
	namespace string
	client    kubernetes.Interface
	srv       *bus.Server
	issuer    *bus.SessionIssuer
	replica   *kube.Runtime // which answers pods whoever made them, as another replica does

	mu       sync.Mutex
	launches map[string]launch.Launch
	bound    map[string]bool
	uids     map[string]map[string]bool // of the pods that each session had
	volumes  map[string]string          // their directories
}

func newEnv(t *testing.T) runtimetest.Env {
	t.Parallel()
	return place(t)
}

func place(t *testing.T) *env {
	t.Helper()
	ring, err := bus.OpenKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	e := &env{
		namespace: clustertest.Namespace(t), client: clustertest.Client(t), issuer: ring.SessionIssuer(),
		srv:      bustest.Start(t, ring, t.TempDir(), cluster.Gateway+":0"),
		launches: map[string]launch.Launch{}, bound: map[string]bool{}, uids: map[string]map[string]bool{}, volumes: map[string]string{},
	}
	e.replica = e.runtime(t)
	server := rpc.NewServer(bustest.Connect(t, e.srv, ring, "sessions"), rpc.ServerConfig{Service: "sessions"})
	rpc.Handle(server, api.RunnerBind, e.bind)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return e
}

// bind is what the service does, with launches in place of the ledger.
func (e *env) bind(ctx context.Context, req api.RunnerBindRequest) (api.RunnerBindResponse, error) {
	p, _ := api.PrincipalFrom(ctx)
	at, err := e.replica.Identify(ctx, p.ID, req)
	if err != nil {
		return api.RunnerBindResponse{}, err
	}
	key := at.Session + "-" + strconv.Itoa(at.Incarnation)
	e.mu.Lock()
	defer e.mu.Unlock()
	l, ok := e.launches[key]
	if !ok || e.bound[key] {
		return api.RunnerBindResponse{}, api.Errorf(api.CodeConflict, "told before")
	}
	e.bound[key] = true
	e.replica.Place(&l)
	text, err := json.Marshal(l)
	return api.RunnerBindResponse{Launch: text}, err
}

func (e *env) config() kube.Config {
	cfg := kube.DefaultConfig()
	cfg.Kubeconfig, cfg.Namespace, cfg.Image = clustertest.Cluster().Kubeconfig, e.namespace, testImage
	cfg.Requests = api.Resources{CPUs: 0.01, MemoryBytes: 16 << 20}
	return cfg
}

// runtime returns a runtime that works until the test ends.
func (e *env) runtime(t *testing.T) *kube.Runtime {
	t.Helper()
	return run(t, e.config(), kube.Deps{
		Cluster: clustertest.Config(t), BusURL: e.srv.URL(), Credentials: e.issuer.PodCredentials,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
}

func run(t *testing.T, cfg kube.Config, deps kube.Deps) *kube.Runtime {
	t.Helper()
	r := kube.New(cfg, deps)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

// recorder notes the launches that pods will ask for.
type recorder struct {
	*kube.Runtime
	e *env
}

func (r recorder) Start(ctx context.Context, l launch.Launch) (sessions.Instance, error) {
	r.e.expect(l)
	return r.Runtime.Start(ctx, l)
}

func (e *env) expect(l launch.Launch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.launches[l.Session+"-"+strconv.Itoa(l.Incarnation)] = l
}

func (e *env) New(t *testing.T) sessions.Runtime { return recorder{e.runtime(t), e} }

func (e *env) Crashed(t *testing.T, l launch.Launch) {
	t.Helper()
	e.expect(l)
	text, err := json.Marshal(map[string]any{"config": e.config(), "bus": e.srv.URL(), "issuer": e.issuer.Marshal(), "launch": l})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "owner")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(text), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e.Up(t, sessions.Ref{Tenant: l.Tenant, Session: l.Session}, l.Incarnation)
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	_ = cmd.Wait()
}

// owner is another process with a runtime: it starts one launch and waits to be killed.
func owner() int {
	var in struct {
		Config kube.Config
		Bus    string
		Issuer []byte
		Launch launch.Launch
	}
	err := json.NewDecoder(os.Stdin).Decode(&in)
	if err != nil {
		fmt.Fprintln(os.Stderr, "owner:", err)
		return 1
	}
	issuer, err := bus.ParseSessionIssuer(in.Issuer)
	if err != nil {
		return 1
	}
	cfg, err := in.Config.Connect()
	if err != nil {
		return 1
	}
	r := kube.New(in.Config, kube.Deps{Cluster: cfg, BusURL: in.Bus, Credentials: issuer.PodCredentials})
	go func() { _ = r.Run(context.Background()) }()
	if _, err := r.Start(context.Background(), in.Launch); err != nil {
		fmt.Fprintln(os.Stderr, "owner:", err)
		return 1
	}
	select {}
}

// pod returns the pod of an incarnation.
func (e *env) pod(t *testing.T, s sessions.Ref, incarnation int) *corev1.Pod {
	p, err := e.client.CoreV1().Pods(e.namespace).Get(t.Context(), s.Session+"-"+strconv.Itoa(incarnation), metav1.GetOptions{})
	if err != nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.uids[s.Session] == nil {
		e.uids[s.Session] = map[string]bool{}
	}
	e.uids[s.Session][string(p.UID)] = true
	return p
}

func (e *env) Up(t *testing.T, s sessions.Ref, incarnation int) {
	t.Helper()
	clustertest.Eventually(t, "the runner is up", func() bool {
		p := e.pod(t, s, incarnation)
		if p == nil || p.Status.PodIP == "" {
			return false
		}
		client := &http.Client{Timeout: time.Second}
		res, err := client.Get("http://" + p.Status.PodIP + ":9000/")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		if !bytes.Contains(text, []byte(s.Session)) {
			return false
		}
		e.mu.Lock()
		daemons := e.launches[s.Session+"-"+strconv.Itoa(incarnation)].Env[runtimetest.Daemons] != ""
		e.mu.Unlock()
		return !daemons || e.Processes(t, s) >= 4 // runner, agent, two daemons
	})
}

// processes returns the processes in the session's pods but for the sandbox's own and the agent's init, by their command lines.
func (e *env) processes(s sessions.Ref) map[int]string {
	e.mu.Lock()
	uids := e.uids[s.Session]
	e.mu.Unlock()
	found := map[int]string{}
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, f := range files {
		groups, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for uid := range uids {
			if !bytes.Contains(groups, []byte("pod"+uid)) {
				continue
			}
			command, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cmdline"))
			text := strings.ReplaceAll(string(command), "\x00", " ")
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil && text != "" && !strings.Contains(text, "pause") && !strings.Contains(text, " sandbox {") {
				found[pid] = text
			}
		}
	}
	return found
}

func (e *env) Processes(_ *testing.T, s sessions.Ref) int { return len(e.processes(s)) }

func (e *env) Kill(t *testing.T, s sessions.Ref) {
	t.Helper()
	for pid, command := range e.processes(s) {
		if strings.HasPrefix(command, "/runner bind") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			clustertest.Eventually(t, "the cluster knows of the death", func() bool {
				list, err := e.client.CoreV1().Pods(e.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "agentyard.dev/session=" + s.Session})
				return err == nil && !slices.ContainsFunc(list.Items, func(p corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
			})
			return
		}
	}
	t.Fatalf("no runner to kill among %v", e.processes(s))
}

// volume returns the directory of the session's volume, while the session has one.
func (e *env) volume(t *testing.T, s sessions.Ref) string {
	claim, err := e.client.CoreV1().PersistentVolumeClaims(e.namespace).Get(t.Context(), s.Session, metav1.GetOptions{})
	if err != nil {
		return ""
	}
	v, err := e.client.CoreV1().PersistentVolumes().Get(t.Context(), claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil || v.Spec.HostPath == nil {
		t.Fatalf("the claim has no volume: %v", err)
	}
	return v.Spec.HostPath.Path
}

func (e *env) Keep(t *testing.T, s sessions.Ref) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(e.volume(t, s), "workspace", "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (e *env) Kept(t *testing.T, s sessions.Ref) bool {
	dir := e.volume(t, s)
	if dir == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(dir, "workspace", "kept"))
	return err == nil
}

func TestConformance(t *testing.T) {
	t.Parallel()
	runtimetest.Run(t, newEnv)
}
