package promises

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// memoryGrowth is how much more the server may hold under any one client's or agent's abuse.
const memoryGrowth = 200 << 20

// TestBounds abuses the yard in one way at a time while another session works.
func TestBounds(t *testing.T) {
	y := yardtest.Start(t, yardtest.OneProcess, "GOGC=100") // without the garbage that a daemon allows itself before it collects any (libs/daemon, KeepHeapFloor)
	good := y.Client.Session(t, api.CreateSessionRequest{Agent: &api.Agent{Kind: "demo"}})
	y.Client.Ask(t, good.ID, "stream 500")
	before := resident(t, y.PID())

	holds := func(t *testing.T) {
		t.Helper()
		for i := range 10 {
			start := time.Now()
			want := fmt.Sprintf("still here %d", i)
			if answer := y.Client.Ask(t, good.ID, "echo "+want); !strings.Contains(answer, want) {
				t.Fatalf("the other session answers %q", answer)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("the other session needed %s", took)
			}
		}
		if after := resident(t, y.PID()); after-before > memoryGrowth {
			t.Errorf("memory grew from %d to %d MiB", before>>20, after>>20)
		}
	}

	t.Run("an agent that prints without end", func(t *testing.T) {
		s := y.Client.Session(t, api.CreateSessionRequest{Agent: &api.Agent{Kind: "custom", Command: []string{"yes", strings.Repeat("x", 200)}}})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		<-ctx.Done()
		holds(t)
		if runner := resident(t, y.RunnerPID(t, s.ID)); runner > memoryGrowth {
			t.Errorf("its runner holds %d MiB", runner>>20)
		}
		y.Client.Must(t, "DELETE", "/api/v1/sessions/"+s.ID, nil, nil)
	})

	t.Run("clients that never read", func(t *testing.T) {
		for range 50 {
			conn, err := net.Dial("tcp", strings.TrimPrefix(y.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "GET /api/v1/sessions/%s/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n\r\n", good.ID, y.Client.Key)
		}
		y.Client.Ask(t, good.ID, "stream 5000")
		holds(t)
	})

	t.Run("a body of 1 GiB", func(t *testing.T) {
		status, _, err := y.Client.Do(t.Context(), "POST", "/api/v1/sessions/"+good.ID+"/messages", io.LimitReader(zeros{}, 1<<30))
		if err == nil && status != 413 {
			t.Errorf("status %d, want 413", status)
		}
		holds(t)
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// resident returns a process's resident memory in bytes.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatalf("process %d has no VmRSS", pid)
	return 0
}
