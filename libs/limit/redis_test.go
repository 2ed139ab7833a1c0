package limit

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// redisServer is a real redis-server on a private socket.
type redisServer struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	args []string
}

func startRedis(t *testing.T, args ...string) *redisServer {
	t.Helper()
	// Not t.TempDir: a socket's path has at most about 100 bytes.
	dir, err := os.MkdirTemp("", "yard-redis-")
	if err != nil {
		t.Fatal(err)
	}
	r := &redisServer{t: t, dir: dir, args: args}
	t.Cleanup(func() {
		r.kill()
		_ = os.RemoveAll(dir)
	})
	r.start()
	return r
}

func (r *redisServer) socket() string { return filepath.Join(r.dir, "s") }
func (r *redisServer) url() string    { return "unix://" + r.socket() }

func (r *redisServer) start() {
	r.t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		r.t.Fatal("this test needs a real Redis server and finds no redis-server in PATH: apt-get install redis-server (macOS: brew install redis)")
	}
	args := append([]string{"--port", "0", "--unixsocket", r.socket(), "--dir", r.dir, "--save", "", "--appendonly", "no"}, r.args...)
	r.cmd = exec.Command(path, args...)
	var out bytes.Buffer
	r.cmd.Stdout, r.cmd.Stderr = &out, &out
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "redis-server accepts connections", func() bool {
		conn, err := net.Dial("unix", r.socket())
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
}

// kill is kill -9, and waits.
func (r *redisServer) kill() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}

func (r *redisServer) signal(s os.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

// logBuffer is a log that tests read while others write.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

// open opens a store and runs it until the test ends.
func open(t *testing.T, cfg Config) (*Store, *logBuffer) {
	t.Helper()
	var log logBuffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s := Open(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, &log
}

func TestRedis(t *testing.T) {
	r := startRedis(t)
	var n int
	newRedis := func(t *testing.T) limiterAndCache {
		t.Helper()
		n++
		remote, err := newRemote(r.url(), fmt.Sprintf("test%d:", n))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = remote.close() })
		return strict{t, remote}
	}
	testBehaviour(t, newRedis)

	t.Run("shares between replicas", func(t *testing.T) {
		var replicas [2]strict
		for i := range replicas {
			remote, err := newRemote(r.url(), "shared:")
			if err != nil {
				t.Fatal(err)
			}
			defer remote.close()
			replicas[i] = strict{t, remote}
		}
		a, b := replicas[0], replicas[1]
		a.Take(t.Context(), "k", 1, slow(2))
		if d := b.Take(t.Context(), "k", 1, slow(2)); !d.Allowed || d.Remaining != 0 {
			t.Errorf("got %+v", d)
		}
		a.Set(t.Context(), "k", []byte("v"), time.Minute)
		if v, _ := b.Get(t.Context(), "k"); string(v) != "v" {
			t.Errorf("got %q", v)
		}
	})
	t.Run("leaves nothing behind", func(t *testing.T) {
		remote, err := newRemote(r.url(), "ttl:")
		if err != nil {
			t.Fatal(err)
		}
		defer remote.close()
		for i, rate := range []Rate{slow(3), {100, 3}, {1e-300, 1}} {
			if _, err := remote.takeTokens(t.Context(), fmt.Sprint(i), 1, rate); err != nil {
				t.Fatal(err)
			}
		}
		keys, err := remote.client.Keys(t.Context(), "ttl:*").Result()
		if err != nil || len(keys) < 2 {
			t.Fatalf("keys %q: %v", keys, err)
		}
		for _, key := range keys {
			if ttl := remote.client.TTL(t.Context(), key).Val(); ttl < 0 {
				t.Errorf("%s does not expire", key)
			}
		}
	})
	t.Run("survives the loss of its script", func(t *testing.T) {
		remote, err := newRemote(r.url(), "script:")
		if err != nil {
			t.Fatal(err)
		}
		defer remote.close()
		for range 2 {
			if err := remote.client.ScriptFlush(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			if _, err := remote.takeTokens(t.Context(), "k", 1, slow(5)); err != nil {
				t.Error(err)
			}
		}
	})
}

// strict runs the suite on Redis itself: a failure that Store would hide fails the test.
type strict struct {
	t *testing.T
	r *remote
}

func (s strict) ok(err error) {
	if err != nil {
		s.t.Error(err)
	}
}

// ctx allows more than Store does, so that a busy machine is not taken for a broken Redis.
func (s strict) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.t.Cleanup(cancel)
	return ctx
}

func (s strict) Take(_ context.Context, key string, n int, rate Rate) Decision {
	d, err := s.r.takeTokens(s.ctx(), key, n, rate)
	s.ok(err)
	return d
}

func (s strict) Get(_ context.Context, key string) ([]byte, bool) {
	v, ok, err := s.r.get(s.ctx(), key)
	s.ok(err)
	return v, ok
}

func (s strict) Set(_ context.Context, key string, value []byte, ttl time.Duration) {
	s.ok(s.r.set(s.ctx(), key, value, atLeast(ttl)))
}

func (s strict) Delete(_ context.Context, key string) { s.ok(s.r.delete(s.ctx(), key)) }

func (s strict) SetNX(_ context.Context, key string, value []byte, ttl time.Duration) bool {
	done, err := s.r.setNX(s.ctx(), key, value, atLeast(ttl))
	s.ok(err)
	return done
}

const (
	awayLine = "redis is away"
	backLine = "redis is back"
)

func TestStoreSurvivesRedis(t *testing.T) {
	t.Run("kill -9 in the middle, and back", func(t *testing.T) {
		r := startRedis(t)
		s, log := open(t, Config{RedisURL: r.url()})
		ctx := t.Context()
		eventually(t, "redis is used", func() bool {
			s.Set(ctx, "before", []byte("old"), time.Minute)
			return !s.Degraded()
		})

		// Many callers are at work when it dies.
		var wg sync.WaitGroup
		stop := make(chan struct{})
		var slowest [8]time.Duration
		for g := range slowest {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					begin := time.Now()
					s.Take(ctx, fmt.Sprint("busy", g), 1, Rate{PerSecond: 1e6, Burst: 1e6})
					slowest[g] = max(slowest[g], time.Since(begin))
				}
			})
		}
		// On a busy machine redis may have seemed away for a moment already.
		aways, backs := log.count(awayLine), log.count(backLine)
		r.kill()
		eventually(t, "the store notices", s.Degraded)

		t.Run("limits on its own", func(t *testing.T) {
			allowed := 0
			for range 10 {
				if s.Take(ctx, "k", 1, slow(3)).Allowed {
					allowed++
				}
			}
			if allowed != 3 {
				t.Errorf("%d were allowed, want 3", allowed)
			}
		})
		t.Run("caches on its own", func(t *testing.T) {
			s.Set(ctx, "during", []byte("v"), time.Minute)
			if v, ok := s.Get(ctx, "during"); !ok || string(v) != "v" {
				t.Errorf("got %q, %v", v, ok)
			}
			if !s.SetNX(ctx, "once", []byte("1"), time.Minute) || s.SetNX(ctx, "once", []byte("2"), time.Minute) {
				t.Error("SetNX does not hold")
			}
		})
		close(stop)
		wg.Wait()
		for _, d := range slowest {
			// Far above callTimeout only because the machine may be busy.
			if d > 20*callTimeout {
				t.Errorf("a call took %v", d)
			}
		}
		if n := log.count(awayLine) - aways; n != 1 {
			t.Errorf("the loss was logged %d times", n)
		}
		if n := log.count(backLine) - backs; n != 0 {
			t.Errorf("a recovery was logged %d times while redis is dead", n)
		}

		r.start()
		eventually(t, "the store is back on redis", func() bool { return log.count(backLine) > backs })
		// Redis itself has what was written meanwhile.
		other, err := newRemote(r.url(), "agentyard:")
		if err != nil {
			t.Fatal(err)
		}
		defer other.close()
		for key, want := range map[string]string{"during": "v", "once": "1"} {
			if v, ok, err := other.get(ctx, key); err != nil || !ok || string(v) != want {
				t.Errorf("%s on redis: %q, %v, %v, want %q", key, v, ok, err, want)
			}
		}
	})

	t.Run("what was deleted while it hung does not come back", func(t *testing.T) {
		r := startRedis(t)
		s, log := open(t, Config{RedisURL: r.url()})
		ctx := t.Context()
		for _, key := range []string{"deleted", "replaced", "kept"} {
			eventually(t, "redis is used", func() bool {
				s.Set(ctx, key, []byte("old"), time.Minute)
				return !s.Degraded()
			})
		}
		r.signal(syscall.SIGSTOP)
		begin := time.Now()
		s.Delete(ctx, "deleted")
		if took := time.Since(begin); took > 20*callTimeout {
			t.Errorf("a hung redis held the call for %v", took)
		}
		s.Set(ctx, "replaced", []byte("new"), time.Minute)
		if !s.Degraded() {
			t.Fatal("the store has not noticed")
		}
		backs := log.count(backLine)
		r.signal(syscall.SIGCONT)
		eventually(t, "the store is back on redis", func() bool { return log.count(backLine) > backs && !s.Degraded() })
		if v, ok := s.Get(ctx, "deleted"); ok {
			t.Errorf("deleted: got %q", v)
		}
		for key, want := range map[string]string{"replaced": "new", "kept": "old"} {
			if v, ok := s.Get(ctx, key); !ok || string(v) != want {
				t.Errorf("%s: got %q, %v, want %q", key, v, ok, want)
			}
		}
	})

	t.Run("absent from the start, then there", func(t *testing.T) {
		r := startRedis(t)
		r.kill()
		s, log := open(t, Config{RedisURL: r.url()})
		if d := s.Take(t.Context(), "k", 1, slow(1)); !d.Allowed {
			t.Errorf("got %+v", d)
		}
		if d := s.Take(t.Context(), "k", 1, slow(1)); d.Allowed {
			t.Errorf("got %+v", d)
		}
		r.start()
		eventually(t, "the store is on redis", func() bool { return log.count(backLine) > 0 && !s.Degraded() })
	})

	t.Run("a full server counts as away", func(t *testing.T) {
		r := startRedis(t, "--maxmemory", "1", "--maxmemory-policy", "noeviction")
		s, log := open(t, Config{RedisURL: r.url()})
		s.Set(t.Context(), "k", []byte("v"), time.Minute)
		if v, ok := s.Get(t.Context(), "k"); !ok || string(v) != "v" {
			t.Errorf("got %q, %v", v, ok)
		}
		if !s.Degraded() || log.count(awayLine) != 1 {
			t.Error("the refusal was not noticed")
		}
	})

	t.Run("a caller that leaves says nothing about redis", func(t *testing.T) {
		r := startRedis(t)
		s, log := open(t, Config{RedisURL: r.url()})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.Take(ctx, "k", 1, slow(1))
		s.Set(ctx, "k", []byte("v"), time.Minute)
		if s.Degraded() || log.count(awayLine) != 0 {
			t.Error("redis is taken for dead")
		}
		eventually(t, "the write reaches redis", func() bool {
			v, ok := s.Get(t.Context(), "k")
			return ok && string(v) == "v"
		})
	})
}

func TestOpenBadURL(t *testing.T) {
	for _, url := range []string{"localhost:6379", "http://h", "redis://u:secret@h:port/%zz"} {
		s := Open(Config{RedisURL: url, Logger: slog.New(slog.DiscardHandler)})
		err := s.Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "-redis.url") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v", url, err)
		}
		if d := s.Take(t.Context(), "k", 1, slow(1)); !d.Allowed {
			t.Errorf("%s: got %+v", url, d)
		}
	}
}
