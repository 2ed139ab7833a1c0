package gateway

import (
	"net/http"
	"net/url"
	"path"
	"strings"

	"agentyard.dev/libs/api"
)

const maxFilePath = 4096

// serveFiles is GET and PUT /api/v1/sessions/{id}/files?path=: the session's workspace, streamed both ways. What comes back is
// a download, never a page of the gateway's.
func (g *Gateway) serveFiles(w *recorder, r *http.Request, c *caller) {
	want := api.SessionRead
	if r.Method == http.MethodPut {
		want = api.SessionWrite
	}
	row, err := g.table.find(c.Principal, r.PathValue("id"), want)
	if err != nil {
		fail(w, r, err)
		return
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		fail(w, r, api.Invalid("/path", "the query is not well-formed"))
		return
	}
	name, err := workspacePath(q.Get("path"))
	if err != nil {
		fail(w, r, err)
		return
	}
	base := path.Base(name)
	if base == "." || base == "/" {
		base = "workspace"
	}
	g.forwardTo(w, r, c, row, &target{
		path: "/_yard/files", query: url.Values{"path": {name}}.Encode(), prefix: r.URL.Path, name: base,
	})
}

// workspacePath checks a path inside a workspace: relative to it, without a way out. The runner opens it below a root
// that cannot be left in any case.
func workspacePath(p string) (string, error) {
	if len(p) > maxFilePath {
		return "", api.Invalid("/path", "is longer than %d bytes", maxFilePath)
	}
	for i := range len(p) {
		if p[i] < 0x20 || p[i] == 0x7f {
			return "", api.Invalid("/path", "holds a control character")
		}
	}
	if strings.HasPrefix(p, "/") || strings.Contains(p, "\\") {
		return "", api.Invalid("/path", "must be relative to the workspace, with slashes")
	}
	for seg := range strings.SplitSeq(p, "/") {
		if seg == ".." {
			return "", api.Invalid("/path", "must not lead out of the workspace")
		}
	}
	return p, nil
}
