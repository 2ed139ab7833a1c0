package promises

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/sandbox"
	"agentyard.dev/services/sessions/sandbox/sandboxtest"
	"agentyard.dev/services/standalone/yardtest"
)

// arrival is one packet: when the kernel had it, and how long it was with its headers.
type arrival struct {
	at    time.Time
	bytes int
}

// sink takes packets in.
type sink struct {
	mu   sync.Mutex
	came []arrival
}

// listen takes the packets in that arrive at a UDP address. The kernel says when each came, however late the test reads it.
func listen(t *testing.T, at string) *sink {
	t.Helper()
	s := &sink{}
	a, err := net.ResolveUDPAddr("udp4", at)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUDP("udp4", a)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		const headers = 14 + 20 + 8
		buf, oob := make([]byte, 2048), make([]byte, 256)
		for {
			n, on, _, _, err := conn.ReadMsgUDP(buf, oob)
			if err != nil {
				return
			}
			seconds, nanos, err := stamp(oob[:on])
			if err != nil {
				t.Error(err)
				return
			}
			s.mu.Lock()
			s.came = append(s.came, arrival{time.Unix(seconds, nanos), n + headers})
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return s
}

func stamp(oob []byte) (seconds, nanos int64, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, 0, err
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			return int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])), nil
		}
	}
	return 0, 0, errors.New("a packet without the time of its arrival")
}

// after returns what came since the packet at index from.
func (s *sink) after(from int) []arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.came[min(from, len(s.came)):]
}

// window waits until packets of that much time came after the index from, and returns them and the next index.
func (s *sink) window(t *testing.T, from int, lasts time.Duration) ([]arrival, int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		came := s.after(from)
		if len(came) > 0 && came[len(came)-1].at.Sub(came[0].at) >= lasts {
			return came, from + len(came)
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d packets came", len(came))
		}
	}
}

// exceeds says by how many bytes packets are at worst ahead of a rate, counted from the first.
func exceeds(came []arrival, bitsPerSecond float64) (most int) {
	sum := 0
	for _, a := range came {
		sum += a.bytes
		most = max(most, sum-int(a.at.Sub(came[0].at).Seconds()*bitsPerSecond/8))
	}
	return most
}

// rate is that of packets, in bits per second.
func rate(came []arrival) float64 {
	sum := 0
	for _, a := range came[1:] {
		sum += a.bytes
	}
	return float64(sum) * 8 / came[len(came)-1].at.Sub(came[0].at).Seconds()
}

// sendAll is a program that sends as fast as it can from its first instruction.
func sendAll(to string, port int) []string {
	return []string{"bash", "--noprofile", "--norc", "-c", fmt.Sprintf(
		`exec 3>/dev/udp/%s/%d; printf -v b %%01400d 0; while :; do printf %%s "$b" >&3; done 2>/dev/null`, to, port)}
}

// TestTraffic has sessions of a yard send all they can from their first moment: the policy that a person applied holds for the first packet, its change is in force
// under load, and the rates are those of packets that arrive. The machine is a network namespace.
func TestTraffic(t *testing.T) {
	yardtest.Binary(t, "agentyard") // before the test starts itself again
	if !sandboxtest.OwnNetwork(t, 3*time.Minute) {
		return
	}
	const there, here = "192.0.2.2", "192.0.2.1"
	internet, err := sandbox.MakeNetwork(launch.Network{Address: there, Gateway: here})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(internet.Close)
	ports := []int{7001, 7002, 7003}
	sinks := make([]*sink, len(ports))
	if err := internet.Do(func() error {
		for i, port := range ports {
			sinks[i] = listen(t, fmt.Sprintf("%s:%d", there, port))
		}
		return exec.Command("ip", "route", "del", "default").Run() // nobody out there knows the way to a session
	}); err != nil {
		t.Fatal(err)
	}
	y := yardtest.Start(t, yardtest.OneProcess, "AGENTAPI_SESSIONS_NETWORK=true", "AGENTAPI_SESSIONS_NETWORK_HOLD=50s")
	policy := func(ceiling string) {
		t.Helper()
		y.Client.Must(t, "PUT", "/api/v1/traffic/policies/all", api.TrafficSpec{
			Name: "all", TrafficRules: api.TrafficRules{Link: api.TrafficLink{Upload: api.TrafficRate{Ceiling: ceiling, Burst: "16KiB"}}},
		}, nil)
	}
	policy("4Mbit")

	const (
		mbit  = 1e6
		slack = 64 << 10 // the burst, and what a busy machine has a packet wait
	)
	begin := func(port int) api.Session {
		return y.Client.Session(t, api.CreateSessionRequest{Agent: &api.Agent{Kind: "custom", Command: sendAll(there, port)}})
	}
	// The spare runner's network, one that is made when there is no spare, and whichever comes then.
	var started sync.WaitGroup
	sessions := make([]api.Session, len(ports))
	for i, port := range ports {
		started.Go(func() { sessions[i] = begin(port) })
	}
	started.Wait()
	next := make([]int, len(ports))
	for i, s := range sinks {
		var came []arrival
		came, next[i] = s.window(t, 0, time.Second)
		if most := exceeds(came, 4*mbit); most > slack {
			t.Errorf("session %d was %d bytes ahead of its policy", i, most)
		}
		if got := rate(came); got < 3*mbit || got > 4.6*mbit {
			t.Errorf("session %d sends %.2f Mbit/s", i, got/mbit)
		}
	}
	if t.Failed() {
		return
	}
	for _, s := range sessions[1:] {
		y.Client.Must(t, "DELETE", "/api/v1/sessions/"+s.ID, nil, nil)
	}
	var now api.TrafficSession
	y.Client.Must(t, "GET", "/api/v1/traffic/sessions/"+sessions[0].ID, nil, &now)
	if now.Applied == nil || now.Applied.State != "applied" || now.Effective.Upload.Ceiling == nil || now.Effective.Upload.Ceiling.Value != "4Mbit" {
		t.Errorf("the session's traffic is said to be %+v", now)
	}

	// Another rate, while it sends.
	policy("12Mbit")
	s := sinks[0]
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	from := next[0]
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		came, n := s.window(t, from, 200*time.Millisecond)
		if from = n; rate(came) > 8*mbit {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the new rate is not in force")
		}
	}
	came, _ := s.window(t, from, time.Second)
	if got := rate(came); got < 9*mbit || got > 13.5*mbit || exceeds(came, 12*mbit) > slack {
		t.Errorf("it sends %.2f Mbit/s, at most %d bytes ahead", got/mbit, exceeds(came, 12*mbit))
	}
}
