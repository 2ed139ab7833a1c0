package promises

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// TestRepositoryTokenStaysHome: who may use a profile cannot have its GIT_TOKEN presented to a server of their own by naming that as the repository.
func TestRepositoryTokenStaysHome(t *testing.T) {
	y := yardtest.Start(t, yardtest.OneProcess, allowPrivate)
	r := newRepoTasks(t, y) // its profile names the host of its repository
	var mu sync.Mutex
	var presented []string
	requests := 0
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		requests++
		if auth := req.Header.Get("Authorization"); auth != "" {
			presented = append(presented, auth)
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="thief"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer thief.Close()
	y.Client.Must(t, http.MethodPost, "/api/v1/profiles", api.Profile{
		Name: "hostless", Agent: api.Agent{Kind: "demo"}, Secrets: []api.SecretRef{{Name: "repository-token", Scope: api.ScopeTenant, Env: "GIT_TOKEN"}},
	}, nil)
	y.Client.Must(t, http.MethodPost, "/api/v1/profiles", api.Profile{
		Name: "own", Agent: api.Agent{Kind: "demo"}, Secrets: []api.SecretRef{{Name: "of-my-own", Env: "GIT_TOKEN"}},
	}, nil)
	var user api.User
	y.Client.Must(t, http.MethodPost, "/api/v1/users", api.CreateUserRequest{Name: "mallory"}, &user)
	var key api.CreateKeyResponse
	y.Client.Must(t, http.MethodPost, "/api/v1/keys", api.CreateKeyRequest{Name: "mallory", User: user.ID}, &key)
	mallory := *y.Client
	mallory.Key = key.Secret
	mallory.Must(t, http.MethodPut, "/api/v1/secrets/of-my-own", map[string]any{"value": "mallorys-own-token"}, nil)

	// try has Mallory's session cloned from a URL and returns why it failed, if it did, and what the thief was shown.
	try := func(profile, url string) (string, []string) {
		t.Helper()
		mu.Lock()
		presented, requests = nil, 0
		mu.Unlock()
		var s api.Session
		mallory.Must(t, http.MethodPost, "/api/v1/sessions?wait=running", api.CreateSessionRequest{Profile: profile, Repository: &api.Repository{URL: url}}, &s)
		mallory.Must(t, http.MethodDelete, "/api/v1/sessions/"+s.ID, nil, nil)
		mu.Lock()
		defer mu.Unlock()
		if strings.HasPrefix(url, thief.URL) && requests == 0 {
			t.Errorf("with %s nobody asked the thief", profile)
		}
		return s.Reason, presented
	}
	for _, profile := range []string{"coder", "hostless"} {
		why, shown := try(profile, thief.URL+"/repo.git")
		if len(shown) > 0 || !strings.Contains(why, `"repository-token" is not for that host`) {
			t.Errorf("with %s the thief was shown %d sign-ins; the session: %s", profile, len(shown), why)
		}
	}
	if why, _ := try("coder", r.origin.URL); why != "" {
		t.Errorf("with a token that is for the host: %s", why)
	}
	if _, shown := try("own", thief.URL+"/repo.git"); len(shown) == 0 {
		t.Error("a token of one's own is not presented: the recorder records nothing")
	}
}
