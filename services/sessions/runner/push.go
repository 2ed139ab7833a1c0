package runner

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/services/sessions/runner/repo"
)

// headFile keeps the commit that the workspace was cloned at, out of the agent's reach.
func (r *runner) headFile() string { return filepath.Join(r.launch.Dir, "head") }

const (
	maxPushBody = 64 << 10
	pushTimeout = 2 * time.Minute
)

// postPush commits what the agent changed and pushes it to a new branch of the session's repository.
func (r *runner) postPush(w http.ResponseWriter, req *http.Request) {
	pushed, err := r.push(w, req)
	if err != nil {
		rpc.WriteError(w, req, err)
		return
	}
	rpc.WriteJSON(w, req, http.StatusOK, pushed)
}

func (r *runner) push(w http.ResponseWriter, req *http.Request) (repo.Pushed, error) {
	var body struct {
		Branch  string    `json:"branch"`
		Author  string    `json:"author"`
		Email   string    `json:"email"`
		Message string    `json:"message"`
		At      time.Time `json:"at"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxPushBody)).Decode(&body); err != nil {
		return repo.Pushed{}, readError(err)
	}
	from := r.launch.Repository
	if from == nil {
		return repo.Pushed{}, api.Errorf(api.CodeConflict, "the session has no repository")
	}
	if !r.pushing.TryLock() {
		return repo.Pushed{}, api.Errorf(api.CodeUnavailable, "a push is under way; try again")
	}
	defer r.pushing.Unlock()
	base, err := os.ReadFile(r.headFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return repo.Pushed{}, err
	}
	policy := r.launch.RepositoryPolicy
	ctx, cancel := context.WithTimeout(req.Context(), pushTimeout)
	defer cancel()
	return repo.Push(ctx, repo.PushRequest{
		Request: repo.Request{
			URL: from.URL, Credential: credential(from.URL, r.launch.Env), Dir: r.workspace(), Scratch: r.launch.Dir, UID: -1, GID: -1,
			Policy: repo.Policy{AllowPrivate: policy.AllowPrivate}, MaxBytes: policy.MaxBytes,
		},
		Base: strings.TrimSpace(string(base)), Branch: body.Branch, Author: body.Author, Email: body.Email, Message: body.Message, At: body.At,
	})
}
