package promises

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// TestHostileInput attacks a whole yard through its only door. Each attack is answered
// with 4xx and tells nothing.
func TestHostileInput(t *testing.T) {
	y := yardtest.Start(t, yardtest.OneProcess)
	const secret = "title-that-only-its-tenant-knows"
	victim := y.Client.Session(t, api.CreateSessionRequest{Title: secret, Agent: &api.Agent{Kind: "demo"}})
	y.Client.Ask(t, victim.ID, "write file.txt\n"+secret)

	// refused fails unless the answer is 4xx without the secret.
	refused := func(t *testing.T, status int, body []byte, err error) {
		t.Helper()
		if err != nil || status < 400 || status > 499 {
			t.Errorf("status %d (%v): %s", status, err, body)
		}
		if strings.Contains(string(body), secret) || strings.Contains(string(body), "/data/") {
			t.Errorf("the answer leaks: %s", body)
		}
	}

	t.Run("another tenant's session", func(t *testing.T) {
		var tenant api.CreateTenantResponse
		y.Client.Must(t, "POST", "/api/v1/tenants", map[string]any{"name": "rival"}, &tenant)
		rival := &yardtest.Client{URL: y.URL, Key: tenant.AdminKey, HTTP: y.Client.HTTP}
		id := "/api/v1/sessions/" + victim.ID
		for _, route := range []string{
			"GET " + id, "GET " + id + "/history", "PATCH " + id, "DELETE " + id, "POST " + id + "/pause", "POST " + id + "/resume",
			"POST " + id + "/interrupt", "POST " + id + "/messages", "GET " + id + "/messages", "POST " + id + "/approvals/aaaaaaaaaaaaaaaaa",
			"GET " + id + "/events", "GET " + id + "/files?path=file.txt", "PUT " + id + "/files?path=file.txt",
			"GET " + id + "/agent/status", "POST " + id + "/agent/message", "GET " + id + "/ports/8080/",
			"GET /sse?session=" + victim.ID,
		} {
			method, path, _ := strings.Cut(route, " ")
			var in any
			switch {
			case strings.HasSuffix(path, "/messages") && method == "POST":
				in = map[string]any{"content": "echo x"}
			case strings.Contains(path, "/approvals/"):
				in = map[string]any{"option": "yes"}
			case method == "PATCH":
				in = map[string]any{"title": "mine"}
			}
			t.Run(route[:strings.Index(route, " ")]+path[strings.LastIndex(path, "/"):], func(t *testing.T) {
				status, body, err := rival.Do(t.Context(), method, path, in)
				refused(t, status, body, err)
				if status != http.StatusNotFound {
					t.Errorf("status %d tells that the session exists", status)
				}
			})
		}
		var page api.Page[api.Session]
		rival.Must(t, "GET", "/api/v1/sessions", nil, &page)
		if len(page.Items) != 0 {
			t.Errorf("the rival lists %d sessions", len(page.Items))
		}
	})

	t.Run("tokens", func(t *testing.T) {
		var granted api.TokenResponse
		y.Client.Must(t, "POST", "/api/v1/tokens", map[string]any{"key": y.Client.Key}, &granted)
		parts := strings.Split(granted.AccessToken, ".")
		if len(parts) != 3 {
			t.Fatalf("the access token is not a JWT")
		}
		_, jwks, err := y.Client.Do(t.Context(), "GET", "/.well-known/jwks.json", nil)
		if err != nil {
			t.Fatal(err)
		}
		var set api.JWKSResponse
		if err := json.Unmarshal(jwks, &set); err != nil || len(set.Keys) == 0 {
			t.Fatalf("key set %s: %v", jwks, err)
		}
		encode := base64.RawURLEncoding.EncodeToString
		public, _ := base64.RawURLEncoding.DecodeString(set.Keys[0].X)
		hs := encode([]byte(`{"alg":"HS256","typ":"at+jwt","kid":"` + set.Keys[0].ID + `"}`))
		mac := hmac.New(sha256.New, public)
		mac.Write([]byte(hs + "." + parts[1]))
		claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
		for name, raw := range map[string]string{
			"alg none":                  encode([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + parts[1] + ".",
			"HS256 with the public key": hs + "." + parts[1] + "." + encode(mac.Sum(nil)),
			"changed claims":            parts[0] + "." + encode([]byte(strings.Replace(string(claims), `"default"`, `"rival"`, 1))) + "." + parts[2],
			"no signature":              parts[0] + "." + parts[1] + ".",
			"a key of nobody":           "ay_aaaaaaaa_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
			"garbage":                   strings.Repeat("x", 5000),
		} {
			t.Run(name, func(t *testing.T) {
				c := &yardtest.Client{URL: y.URL, Key: raw, HTTP: y.Client.HTTP}
				status, body, err := c.Do(t.Context(), "GET", "/api/v1/sessions/"+victim.ID, nil)
				refused(t, status, body, err)
			})
		}
		t.Run("a token in the URL", func(t *testing.T) {
			c := &yardtest.Client{URL: y.URL, HTTP: y.Client.HTTP}
			status, body, err := c.Do(t.Context(), "GET", "/api/v1/sessions/"+victim.ID+"/events?access_token="+granted.AccessToken, nil)
			refused(t, status, body, err)
		})
		t.Run("a revoked key, within a second", func(t *testing.T) {
			var key api.CreateKeyResponse
			y.Client.Must(t, "POST", "/api/v1/keys", map[string]any{"name": "short"}, &key)
			c := &yardtest.Client{URL: y.URL, Key: key.Secret, HTTP: y.Client.HTTP}
			var token api.TokenResponse
			c.Must(t, "POST", "/api/v1/tokens", map[string]any{"key": key.Secret}, &token)
			c.Must(t, "GET", "/api/v1/sessions", nil, nil)
			y.Client.Must(t, "DELETE", "/api/v1/keys/"+key.ID, nil, nil)
			deadline := time.Now().Add(time.Second)
			for _, credential := range []string{key.Secret, token.AccessToken} {
				c.Key = credential
				for {
					status, body, err := c.Do(t.Context(), "GET", "/api/v1/sessions", nil)
					if status == http.StatusUnauthorized {
						break
					}
					if time.Now().After(deadline) {
						t.Fatalf("after a second the credential still answers %d (%v): %.80s", status, err, body)
					}
				}
			}
		})
	})

	t.Run("paths that leave the workspace", func(t *testing.T) {
		for _, path := range []string{
			"/files?path=../../../../etc/passwd", "/files?path=/etc/passwd", "/files?path=..%2f..%2fadmin.key", "/files?path=%00", "/files?path=a/../../../x",
			"/agent/..%2f..%2f_yard/files?path=file.txt", "/agent/_yard/files?path=file.txt", "/agent/%5fyard/files?path=file.txt",
			"/agent/%2e%2e/_yard/files", "/agent//_yard/files?path=file.txt", "/ports/0/", "/ports/99999/", "/ports/-1/", "/ports/http/",
			"/ports/80/..%2f..%2ffiles",
		} {
			t.Run(path, func(t *testing.T) {
				status, body, err := y.Client.Do(t.Context(), "GET", "/api/v1/sessions/"+victim.ID+path, nil)
				refused(t, status, body, err)
				if strings.Contains(string(body), "root:") {
					t.Errorf("the answer is the machine's: %s", body)
				}
			})
		}
		t.Run("a link that the agent made", func(t *testing.T) {
			y.Client.Ask(t, victim.ID, "run ln -s /etc/passwd link && ln -s .. up")
			for _, path := range []string{"link", "up/home", "up/../../admin.key"} {
				status, body, err := y.Client.Do(t.Context(), "GET", "/api/v1/sessions/"+victim.ID+"/files?path="+path, nil)
				refused(t, status, body, err)
			}
		})
	})

	t.Run("a port that is not the session's", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, secret) })) //nolint:gosec // ends with l
		for _, addr := range []string{l.Addr().String(), strings.TrimPrefix(y.URL, "http://"), strings.TrimPrefix(y.BusURL(t), "nats://")} {
			_, port, _ := net.SplitHostPort(addr)
			status, body, err := y.Client.Do(t.Context(), "GET", "/api/v1/sessions/"+victim.ID+"/ports/"+port+"/", nil)
			refused(t, status, body, err)
		}
	})

	t.Run("repositories", func(t *testing.T) {
		for _, url := range []string{
			"http://169.254.169.254/latest/meta-data", "http://127.0.0.1:22/x.git", "https://localhost/x.git", "https://[::1]/x.git", "https://10.0.0.1/x.git",
			"file:///etc", "/etc", "--upload-pack=touch /tmp/x", "ext::sh -c id", "https://user:password@example.org/x.git", "ssh://-oProxyCommand=id/x",
			"https://0x7f000001/x.git", "https://2130706433/x.git", "https://[::ffff:127.0.0.1]/x.git",
		} {
			t.Run(url, func(t *testing.T) {
				status, body, err := y.Client.Do(t.Context(), "POST", "/api/v1/sessions", map[string]any{"repository": map[string]any{"url": url}})
				refused(t, status, body, err)
			})
		}
	})

	t.Run("smuggled requests", func(t *testing.T) {
		path := "/api/v1/sessions/" + victim.ID + "/agent/status"
		for name, head := range map[string]string{
			"two lengths":            "Content-Length: 5\r\nContent-Length: 6\r\n",
			"length and chunks":      "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
			"an obscure encoding":    "Transfer-Encoding: xchunked\r\n",
			"a folded header":        "X-A: b\r\n c: d\r\n",
			"a space in the name":    "Content-Length : 5\r\n",
			"a bare carriage return": "X-A: b\rX-Agentyard-Runner-Key: x\r\n",
			"another host":           "",
		} {
			t.Run(name, func(t *testing.T) {
				conn, err := net.Dial("tcp", strings.TrimPrefix(y.URL, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				host := "127.0.0.1"
				if name == "another host" {
					host = "evil.example"
				}
				fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n%s\r\n0\r\n\r\n", path, host, y.Client.Key, head)
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					return // cut off: as good as refused
				}
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body)
				if resp.StatusCode != http.StatusNotImplemented { // net/http's word for an unknown encoding
					refused(t, resp.StatusCode, body, nil)
				}
			})
		}
	})
}
