package cri

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"agentyard.dev/services/tcagent"
)

// server speaks CRI over a real socket.
type server struct {
	runtime.UnimplementedRuntimeServiceServer

	mu     sync.Mutex
	pods   map[string]*runtime.PodSandboxStatusResponse
	looked int
}

func (s *server) ListPodSandbox(_ context.Context, req *runtime.ListPodSandboxRequest) (*runtime.ListPodSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.GetFilter().GetState().GetState() != runtime.PodSandboxState_SANDBOX_READY {
		return nil, status.Error(codes.InvalidArgument, "pods that are not ready, too?")
	}
	out := &runtime.ListPodSandboxResponse{}
	for id, p := range s.pods {
		out.Items = append(out.Items, &runtime.PodSandbox{Id: id, Labels: p.GetStatus().GetLabels()})
	}
	return out, nil
}

func (s *server) PodSandboxStatus(_ context.Context, req *runtime.PodSandboxStatusRequest) (*runtime.PodSandboxStatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked++
	p := s.pods[req.GetPodSandboxId()]
	if p.GetStatus() == nil || !req.GetVerbose() {
		return nil, status.Error(codes.NotFound, "no such pod")
	}
	return p, nil
}

func pod(mode runtime.NamespaceMode, info string, ips ...string) *runtime.PodSandboxStatusResponse {
	s := &runtime.PodSandboxStatus{
		Labels:  map[string]string{"app": "x"},
		Network: &runtime.PodSandboxNetworkStatus{},
		Linux:   &runtime.LinuxPodSandboxStatus{Namespaces: &runtime.Namespace{Options: &runtime.NamespaceOption{Network: mode}}},
	}
	for i, ip := range ips {
		if i == 0 {
			s.Network.Ip = ip
			continue
		}
		s.Network.AdditionalIps = append(s.Network.AdditionalIps, &runtime.PodIP{Ip: ip})
	}
	return &runtime.PodSandboxStatusResponse{Status: s, Info: map[string]string{"info": info}}
}

func serve(t *testing.T, socket string, s *server) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	runtime.RegisterRuntimeServiceServer(g, s)
	done := make(chan error, 1)
	go func() { done <- g.Serve(listener) }()
	stop = sync.OnceFunc(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestPods(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "cri.sock")
	s := &server{pods: map[string]*runtime.PodSandboxStatusResponse{
		"a":     pod(runtime.NamespaceMode_POD, `{"pid": 41, "runtimeSpec": {}}`, "10.0.0.4", "fd00::4"),
		"host":  pod(runtime.NamespaceMode_NODE, `{"pid": 42}`, "192.0.2.1"),
		"young": pod(runtime.NamespaceMode_POD, `{"pid": 0}`),
		"gone":  {},
	}}
	r, err := Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	if _, err := r.Pods(t.Context()); err == nil {
		t.Error("a runtime that does not run answers")
	}
	stop := serve(t, socket, s)
	list := func() string {
		t.Helper()
		var pods []tcagent.Pod
		var err error
		tick := time.NewTicker(10 * time.Millisecond) // the connection is made again after a while
		defer tick.Stop()
		for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
			if pods, err = r.Pods(t.Context()); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
			r.conn.ResetConnectBackoff()
		}
		return fmt.Sprint(pods)
	}
	if got, want := list(), "[{a map[app:x] [10.0.0.4 fd00::4] 41}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	s.mu.Lock()
	before := s.looked
	s.pods["young"] = pod(runtime.NamespaceMode_POD, `{"pid": 43}`, "10.0.0.5")
	delete(s.pods, "a")
	delete(s.pods, "gone")
	s.mu.Unlock()
	if got, want := list(), "[{young map[app:x] [10.0.0.5] 43}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	s.mu.Lock()
	if n := s.looked - before; n != 1 {
		t.Errorf("it asked %d times, about one new pod", n)
	}
	s.mu.Unlock()
	stop()
	serve(t, socket, s)
	if got, want := list(), "[{young map[app:x] [10.0.0.5] 43}]"; got != want {
		t.Errorf("of a runtime that was started again: %s, want %s", got, want)
	}
}

func FuzzProcess(f *testing.F) {
	for _, seed := range []string{"", `{"pid": 1}`, `{"pid": -1}`, `{"pid": "1"}`, `{"pid": 1e9}`, "[]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, info string) {
		if pid := process(map[string]string{"info": info}); pid < 0 {
			t.Errorf("%q: %d", info, pid)
		}
	})
}
