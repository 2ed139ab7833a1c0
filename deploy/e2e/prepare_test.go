//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"agentyard.dev/deploy/cluster"
)

// manifests are what every real cluster has: a name service; and volumes for the bus, whose user is another than the sessions'.
const manifests = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: dns, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: dns}
rules:
  - {apiGroups: [""], resources: [services], verbs: [get]}
  - {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: dns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: dns}
subjects: [{kind: ServiceAccount, name: dns, namespace: kube-system}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: dns, namespace: kube-system}
spec:
  replicas: 2
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      serviceAccountName: dns
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {k8s-app: kube-dns}}}
      containers:
        - {name: dns, image: localhost/agentyard/dns:TAG, imagePullPolicy: Never, securityContext: {runAsUser: 0}}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  selector: {k8s-app: kube-dns}
  ports: [{name: dns, port: 53, protocol: UDP}]
`

const busVolume = `
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: bus-%[1]d}
spec:
  capacity: {storage: 2Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: bus
  hostPath: {path: %[2]s}
`

// prepare gives the cluster what the chart takes for granted.
func prepare(ctx context.Context) error {
	text := strings.ReplaceAll(manifests, "dns:TAG", "dns:"+running.tag)
	for i := range 3 {
		dir := filepath.Join(cluster.VolumeDir, fmt.Sprint("bus-", i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := os.Chown(dir, 65532, 65532); err != nil {
			return err
		}
		text += fmt.Sprintf(busVolume, i, dir)
	}
	_, err := kubectl(ctx, text, "apply", "--server-side", "-f", "-")
	return err
}

// kubectl runs kubectl as an administrator, with text on its standard input.
func kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	c := running.cluster
	cmd := exec.CommandContext(ctx, c.Kubectl[0], append(append([]string{}, c.Kubectl[1:]...), args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, exit.Stderr)
	}
	return string(out), err
}

// describe says how the cluster is, for whoever looks for the reason of a failure.
func describe(w io.Writer) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	show := func(args ...string) {
		out, err := kubectl(ctx, "", args...)
		fmt.Fprintf(w, "== kubectl %s\n%s", strings.Join(args, " "), out)
		if err != nil {
			fmt.Fprintln(w, err)
		}
	}
	show("get", "pods", "-A", "-o", "wide")
	show("get", "events", "-A", "--field-selector", "type=Warning", "--sort-by", ".lastTimestamp")
	pods, err := kubectl(ctx, "", "get", "pods", "-n", namespace, "-o", "name")
	if err != nil {
		return
	}
	for _, pod := range strings.Fields(pods) {
		show("logs", "-n", namespace, pod, "--all-containers", "--tail", "60", "--prefix")
		show("logs", "-n", namespace, pod, "--all-containers", "--tail", "30", "--prefix", "--previous")
	}
}
