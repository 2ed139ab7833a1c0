package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
)

// The roles of the processes in BenchmarkPassthrough: as in production, the client, the gateway and the runner do not share
// a scheduler.
const (
	roleEnv    = "GATEWAY_BENCH_ROLE"
	socketEnv  = "GATEWAY_BENCH_SOCKET"
	profileEnv = "GATEWAY_BENCH_PROFILE"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "runner":
		benchRunner()
	case "gateway":
		// The yard's helpers need a testing.TB, so this role is a test of its own.
		os.Exit(m.Run())
	default:
		os.Exit(m.Run())
	}
}

func statusHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(api.RunnerKeyHeader) != "runner-secret" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"status":"stable","agent_type":"demo"}`)
	})
}

func benchRunner() {
	ln, err := net.Listen("unix", os.Getenv(socketEnv))
	if err != nil {
		panic(err)
	}
	go func() { _ = http.Serve(ln, statusHandler()) }()
	fmt.Println("listening")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent closes it
}

// TestBenchGateway is the gateway's process of BenchmarkPassthrough.
func TestBenchGateway(t *testing.T) {
	if os.Getenv(roleEnv) != "gateway" {
		return // it is a role, not a test
	}
	y := newYard(t)
	g := y.gateway()
	sid := y.session(g, "alice-key", "unix:"+os.Getenv(socketEnv))
	if p := os.Getenv(profileEnv); p != "" {
		f, err := os.Create(p)
		must(t, err)
		must(t, pprof.StartCPUProfile(f))
		defer pprof.StopCPUProfile()
	}
	fmt.Printf("\nserving %s %s\n", strings.TrimPrefix(g.URL(), "http://"), sid)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// child starts this binary in a role and waits for its line that begins with mark.
func child(b *testing.B, role, socket, mark string) (pid int, said []string) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestBenchGateway$")
	cmd.Env = append(os.Environ(), roleEnv+"="+role, socketEnv+"="+socket)
	stdin, err := cmd.StdinPipe()
	must(b, err)
	out, err := cmd.StdoutPipe()
	must(b, err)
	cmd.Stderr = os.Stderr
	must(b, cmd.Start())
	b.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		if f := strings.Fields(sc.Text()); len(f) > 0 && f[0] == mark {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return cmd.Process.Pid, f[1:]
		}
	}
	b.Fatalf("%s ended", role)
	return 0, nil
}

// cpu returns the processor time that a process has used: the measure that other work on the machine disturbs least.
func cpu(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// nginx runs the peer: Debian's nginx in front of the same socket, tuned as an operator would.
func nginx(b *testing.B, socket string) (worker int, addr string) {
	bin, err := exec.LookPath("nginx")
	must(b, err)
	dir := b.TempDir()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	addr = ln.Addr().String()
	must(b, ln.Close())
	conf := fmt.Sprintf(`worker_processes 2; pid %[1]s/pid; error_log %[1]s/error.log; daemon off; user root;
events { worker_connections 1024; }
http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  upstream runner { server unix:%[2]s; keepalive 64; keepalive_requests 1000000000; }
  keepalive_requests 1000000000;
  server { listen %[3]s; location / { proxy_pass http://runner; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header %[4]s runner-secret; } } }
`, dir, socket, addr, api.RunnerKeyHeader)
	must(b, os.WriteFile(dir+"/conf", []byte(conf), 0o600))
	cmd := exec.Command(bin, "-c", dir+"/conf", "-p", dir)
	must(b, cmd.Start())
	b.Cleanup(func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() })
	until(b, "nginx listens", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return cmd.Process.Pid, addr
}

// family returns the processor time of a process and its children.
func family(pid int) time.Duration {
	sum := cpu(pid)
	kids, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, k := range strings.Fields(string(kids)) {
		n, _ := strconv.Atoi(k)
		sum += cpu(n)
	}
	return sum
}

// BenchmarkPassthrough measures GET …/agent/status through the gateway, authenticated and limited, beside the runner asked directly.
func BenchmarkPassthrough(b *testing.B) {
	dir, err := os.MkdirTemp("", "gwb")
	must(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := dir + "/r.sock"
	runner, _ := child(b, "runner", socket, "listening")
	gw, at := child(b, "gateway", socket, "serving")
	ng, naddr := nginx(b, socket)
	direct := hammer{"unix", socket, "GET /status HTTP/1.1\r\nHost: x\r\n" + api.RunnerKeyHeader + ": runner-secret\r\n\r\n"}
	peer := hammer{"tcp", naddr, "GET /status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice-key\r\n\r\n"}
	ours := hammer{"tcp", at[0], "GET /api/v1/sessions/" + at[1] + "/agent/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer alice-key\r\n\r\n"}
	for _, c := range []int{1, 16} {
		for _, x := range []struct {
			name string
			l    hammer
			pid  int
		}{{"direct", direct, runner}, {"gateway", ours, gw}, {"nginx", peer, ng}} {
			b.Run(fmt.Sprintf("%s/c=%d", x.name, c), func(b *testing.B) {
				before := family(x.pid)
				x.l.run(b, c)
				b.ReportMetric(float64((family(x.pid)-before).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// hammer is one request, repeated on c connections.
type hammer struct{ network, addr, request string }

func (l hammer) run(b *testing.B, c int) {
	var wg sync.WaitGroup
	all := make([][]time.Duration, c)
	begin := time.Now()
	for i := range c {
		n := b.N / c
		if i < b.N%c {
			n++
		}
		wg.Go(func() {
			lat, err := l.worker(n)
			if err != nil {
				b.Error(err)
			}
			all[i] = lat
		})
	}
	wg.Wait()
	took := time.Since(begin)
	lat := slices.Concat(all...)
	slices.Sort(lat)
	if len(lat) > 0 {
		b.ReportMetric(float64(lat[len(lat)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(lat[len(lat)*99/100].Microseconds()), "p99-µs")
	}
	b.ReportMetric(float64(b.N)/took.Seconds(), "req/s")
}

func (l hammer) worker(n int) ([]time.Duration, error) {
	conn, err := net.Dial(l.network, l.addr)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	br := bufio.NewReader(conn)
	lat := make([]time.Duration, 0, n)
	for range n {
		t0 := time.Now()
		if _, err := io.WriteString(conn, l.request); err != nil {
			return nil, err
		}
		length := -1
		for first := true; ; first = false {
			line, err := br.ReadSlice('\n')
			if err != nil {
				return nil, err
			}
			if first && !bytes.Contains(line, []byte(" 200 ")) {
				return nil, errors.New(string(line))
			}
			if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
				length, _ = strconv.Atoi(string(bytes.TrimSpace(v)))
			}
			if len(line) <= 2 {
				break
			}
		}
		if length < 0 {
			return nil, errors.New("no length")
		}
		if _, err := br.Discard(length); err != nil {
			return nil, err
		}
		lat = append(lat, time.Since(t0))
	}
	return lat, nil
}
