package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"agentyard.dev/libs/api"
)

// rounds is how often the arrangements are measured in turn; medians are reported.
const rounds = 5

// benchProxy compares a proxied agent status with the runner asked directly and with
// nginx in between.
func benchProxy(ctx context.Context, r *report) error {
	y, err := startYard(ctx)
	if err != nil {
		return err
	}
	defer y.stop()
	s, err := y.session(ctx)
	if err != nil {
		return err
	}
	rec, err := y.record(ctx, s)
	if err != nil {
		return err
	}
	socket, ok := strings.CutPrefix(rec.Endpoint, "unix:")
	if !ok {
		return fmt.Errorf("endpoint %q is not a unix socket", rec.Endpoint)
	}
	key := http.Header{api.RunnerKeyHeader: {rec.EndpointKey}}
	direct := newTarget("unix", socket, "/status", key)
	// A poll of the status may share its answer with others that wait; a traced one is a question of its own.
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	apart := newTarget("tcp", y.host(), "/api/v1/sessions/"+s.ID+"/agent/status", http.Header{"Authorization": {"Bearer " + y.key}, "Traceparent": {trace}})
	ours := newTarget("tcp", y.host(), "/api/v1/sessions/"+s.ID+"/agent/status", http.Header{"Authorization": {"Bearer " + y.key}})
	addr, stopNginx, err := startNginx(ctx, socket, rec.EndpointKey)
	if err != nil {
		return err
	}
	defer stopNginx()
	nginx := newTarget("tcp", addr, "/status", nil)

	measure := func(c int) (map[string]time.Duration, map[string]float64, error) {
		lat, thr := map[string][]time.Duration{}, map[string][]float64{}
		for range rounds {
			for name, t := range map[string]target{"direct": direct, "ours": ours, "apart": apart, "nginx": nginx} {
				res, err := t.load(ctx, c, 1500*time.Millisecond)
				if err != nil {
					return nil, nil, err
				}
				lat[name] = append(lat[name], median(res.latencies))
				thr[name] = append(thr[name], res.throughput)
			}
		}
		ml, mt := map[string]time.Duration{}, map[string]float64{}
		for name := range lat {
			ml[name], mt[name] = median(lat[name]), medianFloat(thr[name])
		}
		return ml, mt, nil
	}
	lat1, _, err := measure(1)
	if err != nil {
		return err
	}
	over := lat1["ours"] - lat1["direct"]
	r.add(figure{
		"proxy: p50 overhead at c=1", ms(over), "direct p50 " + ms(lat1["direct"]), float64(lat1["ours"]) / float64(lat1["direct"]),
		"≤ 0.15 ms", over <= 150*time.Microsecond,
	})
	_, thr16, err := measure(16)
	if err != nil {
		return err
	}
	ratio := thr16["ours"] / thr16["direct"]
	r.add(figure{"proxy: throughput at c=16", perSecond(thr16["ours"]), "direct " + perSecond(thr16["direct"]), ratio, "≥ 0.60×", ratio >= 0.6})
	ratio = thr16["ours"] / thr16["nginx"]
	r.add(figure{"proxy: throughput at c=16", perSecond(thr16["ours"]), "nginx " + perSecond(thr16["nginx"]), ratio, "≥ 0.80×", ratio >= 0.8})
	ratio = thr16["apart"] / thr16["nginx"]
	r.add(figure{"proxy: the same, no answer shared", perSecond(thr16["apart"]), "nginx " + perSecond(thr16["nginx"]), ratio, "≥ 0.80×", ratio >= 0.8})
	return nil
}

// startNginx runs Debian's nginx as a reverse proxy to the runner's socket, tuned as an
// operator would: two workers, upstream keep-alive, no access log.
func startNginx(ctx context.Context, socket, key string) (addr string, stop func(), err error) {
	bin, err := exec.LookPath("nginx")
	if err != nil {
		return "", nil, fmt.Errorf("the peer is missing (apt-get install nginx-light): %w", err)
	}
	dir, err := os.MkdirTemp("", "agentyard-nginx-")
	if err != nil {
		return "", nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr = l.Addr().String()
	_ = l.Close()
	conf := fmt.Sprintf(`worker_processes 2; pid %[1]s/nginx.pid; error_log %[1]s/error.log; daemon off; user root;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  upstream runner { server unix:%[2]s; keepalive 64; keepalive_requests 1000000000; }
  keepalive_requests 1000000000;
  server { listen %[3]s; location / {
    proxy_pass http://runner; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header %[4]s %[5]s; } }
}
`, dir, socket, addr, api.RunnerKeyHeader, key)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, bin, "-c", path, "-p", dir)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c, err := new(net.Dialer).DialContext(ctx, "tcp", addr); err == nil {
			_ = c.Close()
			return addr, stop, nil
		}
	}
	stop()
	return "", nil, fmt.Errorf("nginx did not listen on %s", addr)
}
