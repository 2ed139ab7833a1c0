package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

// apiVersion is that of the HTTP API, which is in its paths.
const apiVersion = "v1"

// docs are the OpenAPI document and a page that renders it, both made once.
type docs struct {
	openapi, page       []byte
	openapiTag, pageTag string
}

func newDocs() (*docs, error) {
	doc, err := rpc.OpenAPI("agentyard", apiVersion, api.Operations(), extraPaths())
	if err != nil {
		return nil, err
	}
	page, err := renderPage(doc)
	if err != nil {
		return nil, fmt.Errorf("render the API's page: %w", err)
	}
	return &docs{openapi: doc, page: page, openapiTag: contentTag(doc), pageTag: contentTag(page)}, nil
}

func contentTag(b []byte) string {
	sum := sha256.Sum256(b)
	return `"` + hex.EncodeToString(sum[:8]) + `"`
}

func (d *docs) serveOpenAPI(w http.ResponseWriter, r *http.Request) {
	d.write(w, r, "application/json", d.openapi, d.openapiTag)
}

func (d *docs) servePage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	d.write(w, r, "text/html; charset=utf-8", d.page, d.pageTag)
}

func (d *docs) write(w http.ResponseWriter, r *http.Request, typ string, body []byte, tag string) {
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", typ)
	_, _ = w.Write(body)
}

// extraPaths describes what is not an operation of libs/api, as OpenAPI path items.
func extraPaths() map[string]any {
	sid := param("id", "path", "the session's id", true)
	problem := map[string]any{"description": "A problem (RFC 9457)"}
	op := func(summary string, status, what string, params ...any) map[string]any {
		return map[string]any{
			"summary": summary, "parameters": append([]any{}, params...),
			"responses": map[string]any{status: map[string]any{"description": what}, "default": problem},
		}
	}
	after := param("after", "query", "resume after this place: a sequence, an event id of the same stream, or session:sequence pairs", false)
	follow := param("follow", "query", "false: end at the newest event", false)
	resume := param("Last-Event-ID", "header", "as after; goes before it", false)
	ticket := param("ticket", "query", "a single-use ticket from POST /api/v1/tickets, in place of other credentials", false)
	every := func(summary string, params ...any) map[string]any {
		item := map[string]any{}
		for _, m := range []string{"get", "post", "put", "patch", "delete"} {
			item[m] = op(summary, "default", "the session's own answer", params...)
		}
		return item
	}
	rest := param("path", "path", "goes on as it is", true)
	filePath := func(what string, required bool) map[string]any { return param("path", "query", what, required) }
	return map[string]any{
		"/api/v1/sessions/{id}/events": map[string]any{"get": op("Stream a session's events (SSE)", "200", "text/event-stream: id is the sequence, event the type, data the Event", sid, after, resume, follow, ticket)},
		"/api/v1/tasks/{id}/events": map[string]any{"get": op("Stream a task's changes and the events of its sessions (SSE)", "200",
			"text/event-stream: event task for a change of the task, else as a session's events; it ends when the task has", param("id", "path", "the task's id", true), after, resume, follow, ticket)},
		"/api/v1/tasks/{id}/artifacts/{path}": map[string]any{"get": op("Download a file that a task left", "200", "the file", param("id", "path", "the task's id", true), rest)},
		"/sse": map[string]any{"get": op("Stream the events of several sessions, or the changes of all that the caller may see (SSE)", "200",
			"text/event-stream; with several sessions the id holds the place in each", param("session", "query", "up to 64 ids, comma-separated; none: changes of all visible sessions", false), after, resume, follow, ticket)},
		"/ws": map[string]any{"get": op("Follow many sessions over one WebSocket", "101",
			"client frames subscribe, unsubscribe, message, interrupt, approve, ping; server frames event, ack, error, pong", ticket)},
		"/api/v1/sessions/{id}/files": map[string]any{
			"get": op("Read a file or list a directory of the workspace", "200", "the file, or {items: [{path, type, size, mod_time}]} of a directory",
				sid, filePath("relative to the workspace, which itself is listed without", false)),
			"put": op("Write a file of the workspace", "200", "{path, type, size, mod_time} of what was written", sid, filePath("relative to the workspace", true)),
		},
		"/api/v1/sessions/{id}/agent/{path}":        every("The session's own agent API as it is", sid, rest),
		"/api/v1/sessions/{id}/ports/{port}/{path}": every("A web server in the session, sandboxed", sid, param("port", "path", "1–65535", true), rest),
		"/api/v1/tickets":                           map[string]any{"post": op("Get a single-use ticket for one stream", "201", "{ticket, expires_in}")},
		"/api/v1/login":                             map[string]any{"post": op("Sign a browser in: {key} becomes a cookie", "200", "{principal}")},
		"/api/v1/logout":                            map[string]any{"post": op("Sign a browser out", "204", "the cookie is cleared")},
		"/health":                                   map[string]any{"get": op("Whether the gateway is alive", "200", "alive")},
		"/ready":                                    map[string]any{"get": op("Whether the gateway can do its work", "200", "ready")},
	}
}

func param(name, in, what string, required bool) map[string]any {
	return map[string]any{"name": name, "in": in, "description": what, "required": required, "schema": map[string]any{"type": "string"}}
}

// What the page shows of the document.
type (
	pageOp struct {
		Method, Path, Summary string
		Params                []pageParam
		Body                  string // the name of a shape
		Status, Answer        string // of success; its shape, if it has one
	}
	pageParam struct{ Name, In, What string }
	pageModel struct{ Name, Schema string }
)

var methods = []string{"get", "post", "put", "patch", "delete"}

// renderPage makes the page of an OpenAPI document: plain HTML, without scripts.
func renderPage(doc []byte) ([]byte, error) {
	var d struct {
		Info       struct{ Title, Version string }
		Paths      map[string]map[string]json.RawMessage
		Components struct{ Schemas map[string]json.RawMessage }
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		return nil, err
	}
	var ops []pageOp
	for path, item := range d.Paths {
		for _, m := range methods {
			raw, ok := item[m]
			if !ok {
				continue
			}
			var o struct {
				Summary     string
				Parameters  []struct{ Name, In, Description string }
				RequestBody json.RawMessage
				Responses   map[string]json.RawMessage
			}
			if err := json.Unmarshal(raw, &o); err != nil {
				return nil, fmt.Errorf("%s %s: %w", m, path, err)
			}
			p := pageOp{Method: strings.ToUpper(m), Path: path, Summary: o.Summary, Body: refName(o.RequestBody)}
			for _, x := range o.Parameters {
				p.Params = append(p.Params, pageParam{x.Name, x.In, x.Description})
			}
			for status, r := range o.Responses {
				if status[0] == '2' {
					p.Status, p.Answer = status, refName(r)
				}
			}
			ops = append(ops, p)
		}
	}
	slices.SortFunc(ops, func(a, b pageOp) int {
		if c := strings.Compare(a.Path, b.Path); c != 0 {
			return c
		}
		return slices.Index(methods, strings.ToLower(a.Method)) - slices.Index(methods, strings.ToLower(b.Method))
	})
	var models []pageModel
	for name, schema := range d.Components.Schemas {
		var b bytes.Buffer
		if err := json.Indent(&b, schema, "", "  "); err != nil {
			return nil, err
		}
		models = append(models, pageModel{name, b.String()})
	}
	slices.SortFunc(models, func(a, b pageModel) int { return strings.Compare(a.Name, b.Name) })
	var out bytes.Buffer
	err := pageTemplate.Execute(&out, map[string]any{"Info": d.Info, "Ops": ops, "Models": models})
	return out.Bytes(), err
}

// refName returns the name of the first schema that raw refers to.
func refName(raw json.RawMessage) string {
	const mark = `"#/components/schemas/`
	_, tail, ok := strings.Cut(string(raw), mark)
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(tail, `"`)
	return name
}

// A shape's name is on what its details hide, since a browser opens those around what a link leads to, not the ones that it leads to.
var pageTemplate = template.Must(template.New("docs").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Info.Title}} API</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
code,pre{font:13px/1.45 ui-monospace,monospace}details{border-bottom:1px solid #d8dee4;padding:.45rem 0}summary{cursor:pointer}
.m{display:inline-block;min-width:4.2rem;font-weight:600}.s{color:#57606a}table{border-collapse:collapse;margin:.5rem 0 .5rem 4rem}
td{padding:.1rem .8rem .1rem 0;vertical-align:top}p.b{margin:.3rem 0 .3rem 4rem}pre{overflow:auto;background:#f6f8fa;padding:.7rem;scroll-margin-top:3rem}
summary,td{overflow-wrap:anywhere}@media(max-width:40rem){body{margin:1rem auto}table,p.b{margin-left:0}}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}details{border-color:#30363d}pre{background:#161b22}a{color:#6cb6ff}.s{color:#8b949e}}
</style></head><body>
<h1>{{.Info.Title}} API <small class="s">{{.Info.Version}}</small></h1>
<p>The same as a document for programs: <a href="/openapi.json">/openapi.json</a> (OpenAPI 3.1). Send <code>Authorization: Bearer &lt;API key&gt;</code>.</p>
{{range .Ops}}<details><summary><code class="m">{{.Method}}</code> <code>{{.Path}}</code> <span class="s">{{.Summary}}</span></summary>
{{if .Params}}<table>{{range .Params}}<tr><td><code>{{.Name}}</code></td><td class="s">{{.In}}</td><td>{{.What}}</td></tr>{{end}}</table>{{end}}
{{if .Body}}<p class="b">Body: <a href="#{{.Body}}">{{.Body}}</a></p>{{end}}{{if .Status}}<p class="b">Answer: <code>{{.Status}}</code>{{if .Answer}} <a href="#{{.Answer}}">{{.Answer}}</a>{{end}}</p>{{end}}
</details>{{end}}
<h2>Shapes</h2>
{{range .Models}}<details><summary><code>{{.Name}}</code></summary><pre id="{{.Name}}">{{.Schema}}</pre></details>{{end}}
</body></html>
`))
