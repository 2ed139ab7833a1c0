package promises

import (
	"bytes"
	"crypto/subtle"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"agentyard.dev/services/sessions/runner/repo/repotest"
)

// origin is a bare repository with a README on its branch main, which "git http-backend" serves on loopback.
type origin struct {
	URL  string
	Head string // of main

	dir     string       // of the bare repository
	refused atomic.Int64 // requests with a wrong password
}

// newOrigin serves a repository for everyone to read, or with a token only for whoever presents user and token (RFC 7617), who may push too.
func newOrigin(t *testing.T, user, token string) *origin {
	t.Helper()
	root := t.TempDir()
	o := &origin{dir: filepath.Join(root, "repo.git")}
	work := filepath.Join(root, "work")
	repotest.Git(t, root, "init", "-q", "-b", "main", work)
	if err := os.WriteFile(filepath.Join(work, "README.md"), []byte("# the yard\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	repotest.Git(t, work, "add", "README.md")
	repotest.Git(t, work, "commit", "-q", "-m", "first")
	repotest.Git(t, root, "clone", "-q", "--bare", work, o.dir)
	o.Head = repotest.Git(t, o.dir, "rev-parse", "main")
	program := filepath.Join(repotest.Git(t, root, "--exec-path"), "git-http-backend")
	backend := func(user string) http.Handler {
		env := []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}
		if user != "" {
			env = append(env, "REMOTE_USER="+user) // who is known may push
		}
		return &cgi.Handler{Path: program, Root: "/", Env: env}
	}
	open, signedIn := backend(""), backend(user)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body) // a CGI program is told its length, which git does not know of what is large
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		name, password, ok := r.BasicAuth()
		switch {
		case token == "":
			open.ServeHTTP(w, r)
		case ok && name == user && subtle.ConstantTimeCompare([]byte(password), []byte(token)) == 1:
			signedIn.ServeHTTP(w, r)
		default:
			if ok {
				o.refused.Add(1)
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="origin"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(srv.Close)
	o.URL = srv.URL + "/repo.git"
	return o
}

// show returns what a git command prints of the bare repository.
func (o *origin) show(t *testing.T, args ...string) string {
	t.Helper()
	return repotest.Git(t, o.dir, args...)
}
