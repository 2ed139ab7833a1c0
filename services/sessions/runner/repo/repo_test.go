package repo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/runner/repo/repotest"
)

// origin is a bare repository with two commits on main, a branch and a tag.
type origin struct {
	root          string // holds origin.git
	first, second string // commits
}

func newOrigin(t *testing.T) origin {
	t.Helper()
	o := origin{root: t.TempDir()}
	work := t.TempDir()
	repotest.Git(t, work, "init", "-q", "-b", "main")
	write := func(name, text string) string {
		if err := os.WriteFile(filepath.Join(work, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		repotest.Git(t, work, "add", ".")
		repotest.Git(t, work, "commit", "-q", "-m", name)
		return repotest.Git(t, work, "rev-parse", "HEAD")
	}
	// Attributes that would run a filter, had the machine's configuration one.
	o.first = write(".gitattributes", "* filter=evil\n")
	repotest.Git(t, work, "tag", "v1")
	o.second = write("README", "hello\n")
	repotest.Git(t, work, "branch", "side")
	repotest.Git(t, o.root, "clone", "-q", "--bare", work, "origin.git")
	repotest.Git(t, filepath.Join(o.root, "origin.git"), "config", "uploadpack.allowAnySHA1InWant", "true")
	repotest.Git(t, filepath.Join(o.root, "origin.git"), "config", "http.receivepack", "false")
	repotest.Git(t, filepath.Join(o.root, "origin.git"), "update-server-info")
	return o
}

// httpServer serves the origin with git's own CGI program, to those with the password, if any.
func (o origin) httpServer(t *testing.T, password string) *httptest.Server {
	t.Helper()
	backend := filepath.Join(repotest.Git(t, "/", "--exec-path"), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		t.Fatalf("git comes without http-backend: %v", err)
	}
	h := &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + o.root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, p, _ := r.BasicAuth(); p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv
}

func request(t *testing.T, url string) Request {
	t.Helper()
	scratch := t.TempDir()
	dir := filepath.Join(scratch, "workspace")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return Request{URL: url, Dir: dir, Scratch: scratch, UID: -1, GID: -1, Policy: Policy{AllowPrivate: true}, Timeout: 30 * time.Second}
}

// settled fails if a clone left something beside the workspace.
func settled(t *testing.T, req Request) {
	t.Helper()
	entries, err := os.ReadDir(req.Scratch)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "workspace" {
			t.Errorf("%s is left", e.Name())
		}
	}
}

func TestClone(t *testing.T) {
	o := newOrigin(t)
	srv := o.httpServer(t, "")
	urls := map[string]string{"http": srv.URL + "/origin.git", "file": "file://" + o.root + "/origin.git", "git": o.daemon(t) + "/origin.git"}
	tests := []struct {
		name, ref string
		depth     int
		head      string
		commits   string
	}{
		{"the default branch, shallow", "", 0, o.second, "1"},
		{"all history", "", -1, o.second, "2"},
		{"a branch", "side", 0, o.second, "1"},
		{"a tag", "v1", 0, o.first, "1"},
		{"a commit", o.first, 0, o.first, "1"},
		{"a ref", "refs/heads/side", 0, o.second, "1"},
	}
	for scheme, url := range urls {
		for _, tt := range tests {
			t.Run(scheme+"/"+tt.name, func(t *testing.T) {
				req := request(t, url)
				req.Ref, req.Depth = tt.ref, tt.depth
				if err := Clone(t.Context(), req); err != nil {
					t.Fatal(err)
				}
				if got := repotest.Git(t, req.Dir, "rev-parse", "HEAD"); got != tt.head {
					t.Errorf("HEAD is %s, want %s", got, tt.head)
				}
				if got := repotest.Git(t, req.Dir, "rev-list", "--count", "HEAD"); got != tt.commits {
					t.Errorf("%s commits, want %s", got, tt.commits)
				}
				if got := repotest.Git(t, req.Dir, "remote", "get-url", "origin"); got != url {
					t.Errorf("origin is %s, want %s", got, url)
				}
				if _, err := os.Stat(filepath.Join(req.Dir, ".git", "hooks")); err == nil {
					t.Error("hooks were made from a template")
				}
				settled(t, req)
			})
		}
	}
}

// daemon serves the origin with git daemon.
func (o origin) daemon(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	cmd := exec.Command("git", "daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1", fmt.Sprintf("--port=%d", port), "--base-path="+o.root, o.root)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(t.Context(), "tcp", addr)
		if err == nil {
			c.Close()
			return "git://" + addr
		}
		if time.Now().After(deadline) {
			t.Fatalf("git daemon does not answer: %v", err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
}

func TestCloneRefuses(t *testing.T) {
	o := newOrigin(t)
	srv := o.httpServer(t, "")
	var followed atomic.Bool
	inner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		followed.Store(true)
		http.Error(w, "internal", http.StatusOK)
	}))
	t.Cleanup(inner.Close)
	redirect := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, inner.URL+r.URL.Path+"?"+r.URL.RawQuery, http.StatusFound)
	}))
	t.Cleanup(redirect.Close)
	locked := o.httpServer(t, "secret")
	tests := []struct {
		name string
		edit func(*Request)
		code api.Code
		want string
	}{
		{"a repository that is not there", func(r *Request) { r.URL = srv.URL + "/none.git" }, api.CodeInvalid, "no repository"},
		{"a branch that is not there", func(r *Request) { r.Ref = "none" }, api.CodeInvalid, "branch"},
		{"a commit that is not there", func(r *Request) { r.Ref = strings.Repeat("1", 40) }, api.CodeInvalid, "commit"},
		{"a redirect", func(r *Request) { r.URL = redirect.URL + "/origin.git" }, api.CodeInvalid, "redirects"},
		{"a repository that needs a password", func(r *Request) { r.URL = locked.URL + "/origin.git" }, api.CodeInvalid, "credential"},
		{"a wrong password", func(r *Request) { r.URL, r.Credential = locked.URL+"/origin.git", Credential{"u", "wrong"} }, api.CodeInvalid, "credential"},
		{"nobody there", func(r *Request) { r.URL = "http://127.0.0.1:1/x.git" }, api.CodeUnavailable, "reached"},
		{"a private address", func(r *Request) { r.Policy.AllowPrivate = false; r.URL = "https://127.0.0.1/x.git" }, api.CodeInvalid, "not public"},
		{"an option as ref", func(r *Request) { r.Ref = "--upload-pack=x" }, api.CodeInvalid, "branch"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := request(t, srv.URL+"/origin.git")
			tt.edit(&req)
			err := Clone(t.Context(), req)
			if api.CodeOf(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("clone: %v, want %s with %q", err, tt.code, tt.want)
			}
			if strings.Contains(fmt.Sprint(err), "wrong") && tt.name == "a wrong password" && strings.Contains(err.Error(), ":wrong@") {
				t.Errorf("the error holds the password: %v", err)
			}
			settled(t, req)
		})
	}
	if followed.Load() {
		t.Error("the redirect was followed")
	}
}

func TestCloneWithCredential(t *testing.T) {
	o := newOrigin(t)
	req := request(t, o.httpServer(t, "s3cret'\"$pass").URL+"/origin.git")
	req.Credential = Credential{Username: "me", Password: "s3cret'\"$pass"}
	if err := Clone(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(req.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), "s3cret") {
			t.Errorf("%s holds the password", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCloneBounds(t *testing.T) {
	o := newOrigin(t)
	t.Run("time", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, never answers
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		req := request(t, "http://"+l.Addr().String()+"/x.git")
		req.Timeout = 300 * time.Millisecond
		begun := time.Now()
		if err := Clone(t.Context(), req); api.CodeOf(err) != api.CodeExhausted {
			t.Errorf("clone: %v, want exhausted", err)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("took %s", took)
		}
		settled(t, req)
	})
	t.Run("size", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		// A repository that never ends: the advertisement, then a pack of side-band data.
		srv := &http.Server{Handler: endless(o.second)}
		go func() { _ = srv.Serve(l) }()
		defer srv.Close()
		req := request(t, "http://"+l.Addr().String()+"/x.git")
		req.MaxBytes, req.Depth = 4<<20, -1
		if err := Clone(t.Context(), req); api.CodeOf(err) != api.CodeExhausted || !strings.Contains(fmt.Sprint(err), "larger") {
			t.Errorf("clone: %v, want exhausted", err)
		}
		settled(t, req)
	})
	t.Run("cancellation", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := Clone(ctx, request(t, "file://"+o.root+"/origin.git")); !errors.Is(err, context.Canceled) {
			t.Errorf("clone: %v, want canceled", err)
		}
	})
	t.Run("a workspace with files", func(t *testing.T) {
		req := request(t, "file://"+o.root+"/origin.git")
		if err := os.WriteFile(filepath.Join(req.Dir, "mine"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Clone(t.Context(), req); err == nil {
			t.Error("it was replaced")
		}
		if _, err := os.Stat(filepath.Join(req.Dir, "mine")); err != nil {
			t.Errorf("the file is gone: %v", err)
		}
	})
}

// endless speaks protocol version 0 just far enough: one ref, then a pack whose single
// blob never ends.
func endless(commit string) http.Handler {
	pkt := func(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			fmt.Fprint(w, pkt("# service=git-upload-pack\n"), "0000",
				pkt(commit+" HEAD\x00side-band-64k symref=HEAD:refs/heads/main\n"), pkt(commit+" refs/heads/main\n"), "0000")
			return
		}
		w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		fmt.Fprint(w, pkt("NAK\n"))
		// "PACK", version 2, a million objects; then a stored blob of random-looking bytes.
		fmt.Fprint(w, pkt("\x01PACK\x00\x00\x00\x02\x00\x0f\xff\xff"))
		// Objects: type 3 (blob), size 32 KiB, zlib with stored blocks.
		block := make([]byte, 32768)
		for i := range block {
			block[i] = byte(i * 7)
		}
		for n := 0; r.Context().Err() == nil; n++ {
			block[0], block[1], block[2] = byte(n), byte(n>>8), byte(n>>16)
			if _, err := fmt.Fprint(w, pkt("\x01"+string(blob(block)))); err != nil {
				return
			}
		}
	})
}

// blob is a pack entry of data.
func blob(data []byte) []byte {
	n := len(data)
	out := []byte{byte(0xb0 | n&0x0f)}
	for n >>= 4; n > 0; n >>= 7 {
		if n > 0x7f {
			out = append(out, byte(n&0x7f|0x80))
		} else {
			out = append(out, byte(n))
		}
	}
	out = append(out, 0x78, 0x01, 0x01, byte(len(data)), byte(len(data)>>8), ^byte(len(data)), ^byte(len(data)>>8))
	out = append(out, data...)
	a, b := uint32(1), uint32(0)
	for _, c := range data {
		a = (a + uint32(c)) % 65521
		b = (b + a) % 65521
	}
	return append(out, byte(b>>8), byte(b), byte(a>>8), byte(a))
}
