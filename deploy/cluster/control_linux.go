package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	podCIDR     = "10.244.0.0/16"
	serviceCIDR = "10.96.0.0/16"
	usualGrace  = 40 * time.Second
	usualPort   = 6443      // of the API server
	managerDir  = "manager" // of the controller manager's own certificate
)

// Start brings a cluster up and returns when every node is ready and the controllers work. With Nodes the program must have come through Enter.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	if cfg.Nodes > 0 && !inside() {
		return nil, errors.New("a cluster with nodes needs cluster.Enter first")
	}
	if cfg.Nodes > 9 || cfg.Nodes > 0 && cfg.Hollow > 0 {
		return nil, errors.New("a cluster has at most 9 nodes, or hollow ones")
	}
	if cfg.NodeGrace == 0 {
		cfg.NodeGrace = usualGrace
	}
	binary, err := Binary(ctx)
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &Cluster{cfg: cfg, binary: binary, Dir: cfg.Dir, Kubectl: []string{binary, "kubectl"}, stop: cancel, ip: "127.0.0.1"}
	if cfg.Nodes > 0 {
		c.ip = Gateway
	}
	if err := c.start(ctx, run); err != nil {
		c.Stop()
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	return c, nil
}

func (c *Cluster) start(ctx, run context.Context) error {
	if c.Dir == "" {
		dir, err := os.MkdirTemp("", "cluster-*")
		if err != nil {
			return err
		}
		c.Dir, c.temp = dir, true
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(c.Dir, 0o755); err != nil { // the controller manager has another user id
		return err
	}
	ports, err := freePorts(5 + 2*c.cfg.Hollow)
	if err != nil {
		return err
	}
	c.port = ports[0]
	if c.cfg.Nodes > 0 {
		c.port = usualPort // free in namespaces of their own; what network policies of charts expect
	}
	c.Server = "https://" + net.JoinHostPort(c.ip, strconv.Itoa(c.port))
	pki, err := c.certificates()
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	tls, err := pki.client("admin")
	if err != nil {
		return err
	}
	c.api = &http.Client{Transport: &http.Transport{TLSClientConfig: tls}, Timeout: 10 * time.Second}
	manager := filepath.Join(c.Dir, managerDir)
	if err := os.Mkdir(manager, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(manager, 0o777); err != nil {
		return err
	}
	for _, p := range c.control(pki, ports) {
		c.keep(run, p)
	}
	if err := c.await(ctx, "the API server", "kube-apiserver", func(ctx context.Context) bool { return c.get(ctx, "/readyz", nil) == nil }); err != nil {
		return err
	}
	if c.cfg.Nodes > 0 {
		if err := c.startNodes(run, pki); err != nil {
			return err
		}
		if err := c.apply(ctx, storageClass); err != nil {
			return err
		}
	}
	for i := 1; i <= c.cfg.Hollow; i++ {
		name := "hollow" + strconv.Itoa(i)
		c.keep(run, component{name: name, argv: []string{
			c.binary, "hollow-node", "--morph=kubelet", "--name=" + name, "--kubeconfig=" + c.Kubeconfig, "--use-host-image-service=false",
			"--cert-dir=" + c.Dir, "--kube-api-qps=100", "--kube-api-burst=200",
			"--kubelet-port=" + strconv.Itoa(ports[3+2*i]), "--kubelet-read-only-port=" + strconv.Itoa(ports[4+2*i]),
		}, env: []string{"TMPDIR=" + c.Dir}}) // where it leaves a directory behind
	}
	for _, name := range c.Nodes() {
		log := filepath.Join(name, "kubelet")
		if c.cfg.Hollow > 0 {
			log = name
		}
		if err := c.await(ctx, "the node "+name, log, func(ctx context.Context) bool { return c.nodeReady(ctx, name) }); err != nil {
			return err
		}
	}
	return c.await(ctx, "the controller manager", "kube-controller-manager", func(ctx context.Context) bool {
		return c.get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil) == nil
	})
}

// Nodes returns the names of the nodes.
func (c *Cluster) Nodes() []string {
	prefix, n := "node", c.cfg.Nodes
	if c.cfg.Hollow > 0 {
		prefix, n = "hollow", c.cfg.Hollow
	}
	var names []string
	for i := 1; i <= n; i++ {
		names = append(names, prefix+strconv.Itoa(i))
	}
	return names
}

// keep keeps a component running until run ends.
func (c *Cluster) keep(run context.Context, p component) {
	c.parts.Go(func() {
		if err := keep(run, c.Dir, p); err != nil {
			c.logf("%v", err)
		}
	})
}

func (c *Cluster) certificates() (*authority, error) {
	pki, err := newAuthority(filepath.Join(c.Dir, "pki"))
	if err != nil {
		return nil, err
	}
	if err := pki.issue("apiserver", "apiserver", nil, "127.0.0.1", Gateway, "10.96.0.1", "kubernetes.default.svc", "kubernetes.default"); err != nil {
		return nil, err
	}
	if err := pki.issue("serviceaccounts", "serviceaccounts", nil); err != nil {
		return nil, err
	}
	if err := pki.issue("admin", "admin", []string{"system:masters"}); err != nil {
		return nil, err
	}
	c.Kubeconfig, err = pki.kubeconfig(filepath.Join(c.Dir, "admin.kubeconfig"), c.Server, "admin")
	return pki, err
}

// control returns the components of the control plane.
func (c *Cluster) control(pki *authority, ports []int) []component {
	etcd, peer := "http://127.0.0.1:"+strconv.Itoa(ports[1]), "http://127.0.0.1:"+strconv.Itoa(ports[2])
	apiserver := []string{
		c.binary, "kube-apiserver", "--etcd-servers=" + etcd, "--bind-address=" + c.ip, "--advertise-address=" + c.ip,
		"--secure-port=" + strconv.Itoa(c.port), "--cert-dir=" + filepath.Join(c.Dir, "apiserver"),
		"--tls-cert-file=" + pki.path("apiserver.crt"), "--tls-private-key-file=" + pki.path("apiserver.key"), "--client-ca-file=" + pki.path("ca.crt"),
		"--authorization-mode=Node,RBAC", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file=" + pki.path("serviceaccounts.key"), "--service-account-key-file=" + pki.path("serviceaccounts.crt"),
		"--service-cluster-ip-range=" + serviceCIDR, "--allow-privileged", "--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate=" + pki.path("admin.crt"), "--kubelet-client-key=" + pki.path("admin.key"),
	}
	if c.cfg.Nodes > 0 {
		apiserver = append(apiserver, "--kubelet-certificate-authority="+pki.path("ca.crt"))
	} else {
		apiserver = append(apiserver, "--endpoint-reconciler-type=none") // loopback is no endpoint of a service
	}
	if c.cfg.TokenFile != "" {
		apiserver = append(apiserver, "--token-auth-file="+c.cfg.TokenFile)
	}
	client := []string{
		"--kubeconfig=" + c.Kubeconfig, "--authentication-kubeconfig=" + c.Kubeconfig, "--authorization-kubeconfig=" + c.Kubeconfig,
		"--leader-elect=false", "--bind-address=127.0.0.1",
	}
	manager := append([]string{
		c.binary, "kube-controller-manager", "--secure-port=" + strconv.Itoa(ports[3]),
		"--service-account-private-key-file=" + pki.path("serviceaccounts.key"), "--use-service-account-credentials", "--root-ca-file=" + pki.path("ca.crt"),
		"--enable-hostpath-provisioner", "--node-monitor-grace-period=" + c.cfg.NodeGrace.String(),
		"--cert-dir=" + filepath.Join(c.Dir, managerDir),
	}, client...)
	user := 0
	if c.cfg.Nodes > 0 {
		user = VolumeUser // who makes the volumes' directories, which are for their owner only
	}
	return []component{
		{name: "etcd", argv: []string{
			c.binary, "etcd", "--data-dir=" + filepath.Join(c.Dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
			"--listen-client-urls=" + etcd, "--advertise-client-urls=" + etcd,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer,
		}},
		{name: "kube-apiserver", argv: apiserver},
		{name: "kube-controller-manager", argv: manager, user: user},
		{name: "kube-scheduler", argv: append([]string{
			c.binary, "kube-scheduler", "--secure-port=" + strconv.Itoa(ports[4]),
			"--kube-api-qps=1000", "--kube-api-burst=2000", // 50 pods a second otherwise
		}, client...)},
	}
}

const storageClass = `apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ` + StorageClass + `, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/host-path
reclaimPolicy: Delete
`

// apply applies a manifest.
func (c *Cluster) apply(ctx context.Context, manifest string) error {
	cmd := exec.CommandContext(ctx, c.Kubectl[0], append(c.Kubectl[1:], "apply", "--server-side", "-f", "-")...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w: %s", err, out)
	}
	return nil
}

// get asks the API server.
func (c *Cluster) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Server+path, nil)
	if err != nil {
		return err
	}
	res, err := c.api.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, res.Status)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(data, into)
}

func (c *Cluster) nodeReady(ctx context.Context, name string) bool {
	var node struct {
		Status struct {
			Conditions []struct{ Type, Status string }
		}
	}
	if c.get(ctx, "/api/v1/nodes/"+name, &node) != nil {
		return false
	}
	for _, cond := range node.Status.Conditions {
		if cond.Type == "Ready" {
			return cond.Status == "True"
		}
	}
	return false
}

// freePorts returns ports of loopback that are free now.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all of them at the end, so that none is had twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
