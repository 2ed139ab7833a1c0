// Package cri asks a node's container runtime, by Kubernetes' Container Runtime Interface, which pods run here and where their network namespaces are.
package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"agentyard.dev/services/tcagent"
)

const (
	// timeout bounds one look at the runtime, which answers from memory.
	timeout = 2 * time.Second
	// maxAnswer bounds an answer: a list of a thousand pods is some hundreds of kilobytes.
	maxAnswer = 32 << 20
)

// Runtime is a container runtime, and implements tcagent.Runtime. Its methods may be called at the same time.
type Runtime struct {
	conn   *grpc.ClientConn
	client runtime.RuntimeServiceClient

	mu    sync.Mutex
	known map[string]tcagent.Pod // by ID: neither address nor process of a sandbox changes
}

// Open returns the runtime behind a Unix socket. It does not connect yet: the runtime may start later, and again.
func Open(socket string) (*Runtime, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("container runtime: %w", err)
	}
	return &Runtime{conn: conn, client: runtime.NewRuntimeServiceClient(conn), known: map[string]tcagent.Pod{}}, nil
}

// Close ends the connection.
func (r *Runtime) Close() error { return r.conn.Close() }

// Pods lists the pods that are ready, but those on the node's own network and those of which the runtime does not say enough. It asks about each pod once.
func (r *Runtime) Pods(ctx context.Context) ([]tcagent.Pod, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	list, err := r.client.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{Filter: &runtime.PodSandboxFilter{
		State: &runtime.PodSandboxStateValue{State: runtime.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		return nil, fmt.Errorf("container runtime: list pods: %w", err)
	}
	pods, known := make([]tcagent.Pod, 0, len(list.GetItems())), make(map[string]tcagent.Pod, len(list.GetItems()))
	for _, item := range list.GetItems() {
		p, ok := r.known[item.GetId()]
		if !ok {
			p, ok, err = r.look(ctx, item)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue // it is being made, or has just ended
			}
		}
		known[item.GetId()] = p
		if p.PID != 0 {
			pods = append(pods, p)
		}
	}
	r.known = known
	return pods, nil
}

// look asks about one pod. One that is on the node's network has no PID; ok is false when it is to be asked again.
func (r *Runtime) look(ctx context.Context, item *runtime.PodSandbox) (p tcagent.Pod, ok bool, err error) {
	p = tcagent.Pod{ID: item.GetId(), Labels: item.GetLabels()}
	answer, err := r.client.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: p.ID, Verbose: true})
	if status.Code(err) == codes.NotFound {
		return p, false, nil
	}
	if err != nil {
		return p, false, fmt.Errorf("container runtime: look at pod %s: %w", p.ID, err)
	}
	s := answer.GetStatus()
	if s.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtime.NamespaceMode_NODE {
		return p, true, nil
	}
	for _, text := range append([]string{s.GetNetwork().GetIp()}, additional(s)...) {
		if a, err := netip.ParseAddr(text); err == nil {
			p.Addresses = append(p.Addresses, a.Unmap())
		}
	}
	p.PID = process(answer.GetInfo())
	return p, p.PID != 0 && len(p.Addresses) > 0, nil
}

func additional(s *runtime.PodSandboxStatus) (out []string) {
	for _, ip := range s.GetNetwork().GetAdditionalIps() {
		out = append(out, ip.GetIp())
	}
	return out
}

// process is the process id in what a runtime tells besides (containerd and CRI-O alike, a JSON document "info"); 0: it does not say.
func process(info map[string]string) int {
	var told struct {
		PID int `json:"pid"`
	}
	if json.NewDecoder(strings.NewReader(info["info"])).Decode(&told) != nil || told.PID < 0 {
		return 0
	}
	return told.PID
}
