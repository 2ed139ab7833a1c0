package cluster

import (
	"fmt"
	"os"
	"path/filepath"
)

// configure writes the configuration of a node's components.
func (n node) configure() error {
	if err := os.MkdirAll(n.path("cni"), 0o755); err != nil {
		return err
	}
	for file, text := range map[string]string{
		"cni/10-pods.conflist": fmt.Sprintf(cniConfig, podRange(n.Index)),
		"containerd.toml":      fmt.Sprintf(containerdConfig, n.path("containerd"), socket, pauseImage, cniDir, n.path("cni")),
		"kubelet.yaml": fmt.Sprintf(kubeletConfig, "/"+n.Group, socket,
			filepath.Join(n.PKI, n.Name+".crt"), filepath.Join(n.PKI, n.Name+".key"), filepath.Join(n.PKI, "ca.crt")),
	} {
		if err := os.WriteFile(n.path(file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Pods of a node are on a bridge; the other nodes and the program have routes to them.
const cniConfig = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni-ipam"}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
`

// Without CAP_SYS_RESOURCE, as in a container, the scores of the OOM killer cannot be lowered.
const containerdConfig = `version = 2
root = %q
state = "/run/containerd/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: %q
failSwapOn: false
containerRuntimeEndpoint: unix://%s
tlsCertFile: %q
tlsPrivateKeyFile: %q
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %q}}
authorization: {mode: Webhook}
clusterDomain: cluster.local
clusterDNS: [10.96.0.10]
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%%, imagefs.available: 1%%, nodefs.inodesFree: 1%%}
resolvConf: ""
nodeStatusUpdateFrequency: 5s
`
