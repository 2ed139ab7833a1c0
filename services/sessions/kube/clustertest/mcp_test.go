//go:build cluster

package clustertest_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions/kube/clustertest"
)

// Agents that keep in their home what they are told of MCP servers, and do no more: one is started as Claude Code is and reads the file that its arguments name, one speaks ACP.
const (
	claudeAgent = `for a in "$@"; do [ "$last" = --mcp-config ] && busybox cat "$a" > "$HOME/read"; last=$a; done
printf '%s\n' "$@" > "$HOME/told"; while read -r l; do
case "$l" in *'"initialize"'*) echo '{"type":"control_response","response":{"subtype":"success","request_id":"yard-1","response":{}}}';; esac; done`
	acpAgent = `while read -r l; do id=$(printf %s "$l" | busybox sed -n 's/.*"id":\([0-9]*\).*/\1/p')
case "$l" in
*'"initialize"'*) echo '{"jsonrpc":"2.0","id":'$id',"result":{"protocolVersion":1,"agentCapabilities":{"mcpCapabilities":{"http":true}}}}';;
*session/new*) printf %s "$l" > "$HOME/told"; echo '{"jsonrpc":"2.0","id":'$id',"result":{"sessionId":"x"}}';;
esac; done`
)

// TestMCPServers: a profile's MCP servers, with the secrets in them, reach the agent in its pod, one that waited for the session too: Claude Code in a file that nobody else may read, an agent that speaks
// ACP in its conversation. Nothing of it is in the cluster's objects or in a log; a secret that has changed is there after a pause; and when the session ends the file is gone from its node.
func TestMCPServers(t *testing.T) {
	t.Parallel()
	const key, nextKey = "mcp-key-of-the-pod", "mcp-key-after-the-pause"
	y := newYard(t, nil)
	store := func(value string) {
		if _, err := rpc.Call(y.admin, y.client, api.PutSecret, api.PutSecretRequest{Name: "MCP_KEY", Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	store(key)
	servers := []api.MCPServer{
		{Name: "files", Command: "mcp-files", Args: []string{"--root", "."}, Env: map[string]string{"KEY": "${secret:MCP_KEY}"}},
		{Name: "remote", Type: "http", URL: "https://mcp.example.com/v1", Headers: map[string]string{"Authorization": "Bearer ${secret:MCP_KEY}"}},
	}
	agent := func(kind, script string) api.Agent {
		return api.Agent{Kind: kind, Command: []string{"sh", "-c", script, kind}}
	}
	y.profile(api.Profile{Name: "kept", MCPServers: servers, Agent: agent("claude", claudeAgent), Pod: api.Pod{Volume: &api.Volume{Bytes: 16 << 20}}})
	y.profile(api.Profile{Name: "waiting", MCPServers: servers, Agent: agent("claude", claudeAgent), Pool: &api.Pool{Size: 1}})
	y.profile(api.Profile{Name: "acp", MCPServers: servers, Agent: agent("acp", acpAgent)})
	clustertest.Eventually(t, "a pod waits", func() bool {
		st, err := rpc.Call(y.admin, y.client, api.GetPool, api.NameRef{Name: "waiting"})
		return err == nil && st.Ready == 1
	})
	waited := waiting(t, y.kube, y.namespace)
	kept, warm, acp := y.create("kept"), y.create("waiting"), y.create("acp")
	for _, s := range []api.Session{kept, warm, acp} {
		y.reaches(s.ID, api.StateRunning)
	}
	if waited[string(y.pod(warm.ID).UID)] == nil {
		t.Error("the session has not the pod that waited")
	}
	homes := map[string]string{kept.ID: y.home(kept.ID), warm.ID: y.home(warm.ID), acp.ID: y.home(acp.ID)}

	claude := func(t *testing.T, id, key string) {
		t.Helper()
		const file = ".agentyard/mcp.json"
		for name, mode := range map[string]os.FileMode{file: 0o600, filepath.Dir(file): 0o700 | os.ModeDir} {
			info, err := os.Lstat(filepath.Join(homes[id], name))
			if err != nil {
				t.Fatal(err)
			}
			if st := info.Sys().(*syscall.Stat_t); info.Mode()&^os.ModeSetgid != mode || st.Uid != 999 {
				t.Errorf("%s is of user %d, mode %s", name, st.Uid, info.Mode())
			}
		}
		told := readIn(t, homes[id], "told")
		if !strings.Contains(told, "\n--mcp-config\n/session/home/"+file+"\n") || strings.Contains(told, key) {
			t.Errorf("its arguments are %q", told)
		}
		var got struct {
			Servers map[string]struct {
				Type, Command string
				Env, Headers  map[string]string
			} `json:"mcpServers"`
		}
		if err := json.Unmarshal([]byte(readIn(t, homes[id], "read")), &got); err != nil { // what the agent itself has read
			t.Fatal(err)
		}
		m := got.Servers
		if len(m) != 2 || m["files"].Type != "stdio" || m["files"].Command != "mcp-files" || m["files"].Env["KEY"] != key || m["remote"].Headers["Authorization"] != "Bearer "+key {
			t.Errorf("it has read %+v", m)
		}
	}
	t.Run("Claude Code", func(t *testing.T) { claude(t, kept.ID, key) })
	t.Run("in a pod that waited", func(t *testing.T) { claude(t, warm.ID, key) })
	t.Run("by ACP", func(t *testing.T) {
		var got struct {
			Params struct {
				Servers json.RawMessage `json:"mcpServers"`
			} `json:"params"`
		}
		if err := json.Unmarshal([]byte(readIn(t, homes[acp.ID], "told")), &got); err != nil {
			t.Fatal(err)
		}
		want := `[{"name":"files","command":"mcp-files","args":["--root","."],"env":[{"name":"KEY","value":"` + key + `"}]},` +
			`{"type":"http","name":"remote","url":"https://mcp.example.com/v1","headers":[{"name":"Authorization","value":"Bearer ` + key + `"}]}]`
		if string(got.Params.Servers) != want {
			t.Errorf("told of %s\nwant %s", got.Params.Servers, want)
		}
		if _, err := os.Lstat(filepath.Join(homes[acp.ID], ".agentyard/mcp.json")); !os.IsNotExist(err) {
			t.Errorf("it has a file too: %v", err)
		}
	})
	t.Run("nowhere else", func(t *testing.T) {
		shown := y.shown()
		for _, s := range []api.Session{kept, warm, acp} {
			log, err := y.kube.CoreV1().Pods(y.namespace).GetLogs(y.pod(s.ID).Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
			if err != nil || !strings.Contains(shown, s.ID) {
				t.Errorf("%v, or the cluster shows nothing of %s: the search does not work", err, s.ID)
			}
			shown += string(log)
		}
		if strings.Contains(shown, key) {
			t.Error("the cluster shows the key")
		}
	})
	t.Run("after a pause, with a secret that has changed", func(t *testing.T) {
		store(nextKey)
		for _, step := range []struct {
			op   api.Op[api.SessionRef, api.Session]
			want api.State
		}{{api.PauseSession, api.StatePaused}, {api.ResumeSession, api.StateRunning}} {
			if _, err := rpc.Call(y.admin, y.client, step.op, api.SessionRef{ID: kept.ID}); err != nil {
				t.Fatal(err)
			}
			y.reaches(kept.ID, step.want)
		}
		claude(t, kept.ID, nextKey)
	})
	for _, s := range []api.Session{kept, warm, acp} {
		y.end(s.ID)
		clustertest.Eventually(t, "the home of "+s.ID+" is gone", func() bool {
			_, err := os.Lstat(homes[s.ID])
			return os.IsNotExist(err)
		})
	}
}

func readIn(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// home returns where a session's home is on its node: on its volume, or in the directory that the kubelet has for the pod.
func (y *yard) home(id string) string {
	y.t.Helper()
	p := y.pod(id)
	for _, v := range p.Spec.Volumes {
		switch {
		case v.Name != "session":
		case v.PersistentVolumeClaim == nil:
			return filepath.Join(clustertest.Cluster().Dir, p.Spec.NodeName, "kubelet", "pods", string(p.UID), "volumes", "kubernetes.io~empty-dir", v.Name, "home")
		default:
			claim, err := y.kube.CoreV1().PersistentVolumeClaims(y.namespace).Get(y.t.Context(), v.PersistentVolumeClaim.ClaimName, metav1.GetOptions{})
			if err != nil {
				y.t.Fatal(err)
			}
			volume, err := y.kube.CoreV1().PersistentVolumes().Get(y.t.Context(), claim.Spec.VolumeName, metav1.GetOptions{})
			if err != nil || volume.Spec.HostPath == nil {
				y.t.Fatalf("the claim has no volume: %v", err)
			}
			return filepath.Join(volume.Spec.HostPath.Path, "home")
		}
	}
	y.t.Fatalf("the pod of %s has no home", id)
	return ""
}
