package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"agentyard.dev/deploy/cluster"
	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
)

const (
	sessionSpace = "bench-sessions" // where our pods are
	plainSpace   = "bench-plain"    // where those of the plain loop are
)

// place is a cluster with a yard on it.
type place struct {
	dir      string
	cluster  *cluster.Cluster
	config   *rest.Config
	kube     kubernetes.Interface
	nodes    *nodes
	order    order
	bus      *part
	manager  *part
	conn     *bus.Conn
	client   *rpc.Client
	admin    context.Context
	profile  string
	many     int         // sessions of benchMany
	template *corev1.Pod // see plainPod
	closers  []func()
}

// open starts the control plane, the nodes, the bus and the manager. Close it in any case.
func (p *place) open(ctx context.Context, name string, verbose bool) (err error) {
	if p.dir, err = os.MkdirTemp("", "agentyard-bench-"); err != nil {
		return err
	}
	p.closers = append(p.closers, func() { _ = os.RemoveAll(p.dir) })
	// Nodes that are late are not what is measured.
	if p.cluster, err = cluster.Start(ctx, cluster.Config{NodeGrace: time.Hour}); err != nil {
		return err
	}
	p.closers = append(p.closers, p.cluster.Stop)
	if p.config, err = clientcmd.BuildConfigFromFlags("", p.cluster.Kubeconfig); err != nil {
		return err
	}
	p.config.QPS = -1
	if p.kube, err = kubernetes.NewForConfig(p.config); err != nil {
		return err
	}
	for _, name := range []string{sessionSpace, plainSpace} {
		if err := p.namespace(ctx, name); err != nil {
			return err
		}
	}
	if p.nodes, err = startNodes(ctx, p.config); err != nil {
		return err
	}
	p.closers = append(p.closers, p.nodes.stop)
	if err := p.startYard(ctx, name, verbose); err != nil {
		return err
	}
	return nil
}

// namespace makes a namespace in which pods can be made.
func (p *place) namespace(ctx context.Context, name string) error {
	_, err := p.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make namespace: %w", err)
	}
	return wait(ctx, "the namespace's service account", func() bool {
		_, err := p.kube.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err == nil
	})
}

// startYard starts the bus and the manager, and connects as the gateway does.
func (p *place) startYard(ctx context.Context, name string, verbose bool) error {
	key, err := token.NewSigningKey(time.Now(), time.Now(), time.Now().Add(24*time.Hour))
	if err != nil {
		return err
	}
	who := api.Principal{ID: api.NewID(api.KindUser), Tenant: api.HomeTenant, Name: "bench", Roles: []api.Role{api.RoleAdmin}}
	raw, err := token.Mint(key, who, time.Now(), time.Hour)
	if err != nil {
		return err
	}
	p.admin = token.WithRaw(ctx, raw)
	p.order = order{
		Dir: p.dir, Kubeconfig: p.cluster.Kubeconfig, Namespace: sessionSpace, KeyID: key.ID, Key: key.Private.Public().(ed25519.PublicKey), Verbose: verbose,
	}
	if p.profile != "" {
		p.order.Profile = filepath.Join(p.profile, name+"-bus.pprof")
	}
	if p.bus, err = startPart(ctx, busVerb, p.order); err != nil {
		return err
	}
	p.closers = append(p.closers, p.bus.stop)
	p.order.BusURL = p.bus.said
	ring, err := p.order.keyring()
	if err != nil {
		return err
	}
	if p.conn, err = p.order.connect(ring, "gateway", discard); err != nil {
		return err
	}
	p.closers = append(p.closers, func() { _ = p.conn.Close(context.WithoutCancel(ctx)) })
	p.client = rpc.NewClient(p.conn, rpc.ClientConfig{Name: "gateway", Timeout: time.Minute})
	return p.startManager(ctx)
}

func (p *place) startManager(ctx context.Context) (err error) {
	if p.manager, err = startPart(ctx, managerVerb, p.order); err != nil {
		return err
	}
	m := p.manager
	p.closers = append(p.closers, m.stop)
	return nil
}

// close ends everything, the last begun first.
func (p *place) close() {
	for i := range p.closers {
		p.closers[len(p.closers)-1-i]()
	}
}

// part is a part of this program that runs as a process of its own.
type part struct {
	cmd  *exec.Cmd
	in   io.Closer
	said string
	done chan struct{}
}

const stopWithin = 20 * time.Second

func startPart(ctx context.Context, verb string, o order) (*part, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &part{cmd: exec.Command(self, verb), done: make(chan struct{})} //nolint:gosec // this program
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.in = in
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(in).Encode(o); err != nil {
		p.kill()
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() {
		defer close(p.done)
		_, _ = io.Copy(io.Discard, out)
		_ = p.cmd.Wait()
	}()
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("start the %s: %w", verb, errors.Join(err, ctx.Err()))
	}
	p.said = strings.TrimSpace(line)
	return p, nil
}

func (p *part) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// stop ends the process; more than once is nothing.
func (p *part) stop() {
	_ = p.in.Close()
	select {
	case <-p.done:
	case <-time.After(stopWithin):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// rss returns how much memory the process has.
func (p *part) rss() (bytes int64) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

// stats asks the manager what it did.
func (p *place) stats(ctx context.Context) (s stats, err error) {
	body, err := p.get(ctx, "/stats")
	if err != nil {
		return s, err
	}
	defer body.Close()
	return s, json.NewDecoder(body).Decode(&s)
}

func (p *place) get(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.manager.said+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// record takes the processor profiles of the manager and the API server of so many seconds, and of this program until the result is called, if they are wanted. Call the result to wait for them.
func (p *place) record(ctx context.Context, name string, seconds int) (wait func()) {
	if p.profile == "" {
		return func() {}
	}
	var both sync.WaitGroup
	keep := func(part string, of func() (io.ReadCloser, error)) {
		both.Go(func() {
			body, err := of()
			if err != nil {
				fmt.Fprintf(os.Stderr, "# no profile of the %s: %v\n", part, err)
				return
			}
			defer body.Close()
			if f, err := os.Create(filepath.Join(p.profile, name+"-"+part+".pprof")); err == nil {
				defer f.Close()
				_, _ = io.Copy(f, body)
			}
		})
	}
	keep("manager", func() (io.ReadCloser, error) { return p.get(ctx, fmt.Sprintf("/profile?seconds=%d", seconds)) })
	keep("apiserver", func() (io.ReadCloser, error) {
		return p.kube.CoreV1().RESTClient().Get().AbsPath("/debug/pprof/profile").Param("seconds", strconv.Itoa(seconds)).Stream(ctx)
	})
	own, err := os.Create(filepath.Join(p.profile, name+"-nodes.pprof"))
	if err == nil {
		err = pprof.StartCPUProfile(own)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "# no profile of the nodes and clients: %v\n", err)
	}
	return func() {
		pprof.StopCPUProfile()
		_ = own.Close()
		both.Wait()
	}
}

// wait waits until ok, looking often.
func wait(ctx context.Context, what string, ok func() bool) error {
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}
