package promises

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

// taskStory is a task from its creation to its end, as its event stream told it.
type taskStory struct {
	task   api.Task
	states []string // each once, as they followed each other
	events []api.Event
	said   string // what the agent and its tools said
	broke  error  // how its stream ended before the task did

	heard *taskStory // the same over /ws
}

// storyWithin bounds one task, on a machine that is busy with other tests.
const storyWithin = 3 * time.Minute

// follow makes a task and follows it to its end. It calls each, if there is one, for each change and each event.
func (s *taskStory) follow(t *testing.T, c *yardtest.Client, spec api.TaskSpec, each func(*api.Change[api.Task], *api.Event)) {
	t.Helper()
	var made api.Task
	c.Must(t, http.MethodPost, "/api/v1/tasks", spec, &made)
	s.task, s.heard = made, new(taskStory)
	stuck := time.AfterFunc(storyWithin, func() {
		_, now, err := c.Do(t.Context(), http.MethodGet, "/api/v1/tasks/"+made.ID, nil)
		t.Errorf("the task has not ended within %s: %s (%v)", storyWithin, now, err)
		_, _, _ = c.Do(t.Context(), http.MethodPost, "/api/v1/tasks/"+made.ID+"/cancel", nil) // so that it does
	})
	defer stuck.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 2*storyWithin)
	defer cancel()
	var socket sync.WaitGroup
	socket.Go(func() { s.heard.broke = c.TaskSocket(ctx, made.ID, s.heard.tell) })
	defer socket.Wait()
	c.TaskEvents(t, made.ID, func(change *api.Change[api.Task], ev *api.Event) bool {
		s.tell(change, ev)
		if each != nil {
			each(change, ev)
		}
		return true
	})
}

// tell adds an event to the story.
func (s *taskStory) tell(change *api.Change[api.Task], ev *api.Event) {
	if change == nil {
		s.events = append(s.events, *ev)
		s.said += ev.Content + ev.Delta + string(ev.Raw)
		return
	}
	s.task = change.State
	if state := string(s.task.State); len(s.states) == 0 || s.states[len(s.states)-1] != state {
		s.states = append(s.states, state)
	}
}

// succeeded expects the task to have succeeded with its branch pushed, and both streams to have told all that the session's log holds.
func (s *taskStory) succeeded(t *testing.T, y *yardtest.Yard, branch string) {
	t.Helper()
	if r := s.task.Result; s.task.State != api.TaskSucceeded || r == nil || r.Branch != branch || len(r.Problems) > 0 {
		t.Fatalf("the task is %s: %s; %+v", s.task.State, s.task.Reason, r)
	}
	log := y.Client.Events(t, s.task.SessionID)
	same := func(stream string, got []api.Event) {
		t.Helper()
		ended := false
		for i, ev := range got {
			if i >= len(log) || log[i].Type != ev.Type || log[i].MessageID != ev.MessageID || !log[i].At.Equal(ev.At) {
				t.Errorf("%s: event %d, %s, is not the log's", stream, i, ev.Type)
				return
			}
			ended = ended || ev.Type == api.EventStatus && ev.ReplyTo == s.task.Message && ev.Activity == api.ActivityIdle
		}
		if !ended {
			t.Errorf("%s: %d of %d events, and the end of the turn is not among them", stream, len(got), len(log))
		}
	}
	same("SSE", s.events)
	same("WebSocket", s.heard.events)
	if got, want := strings.Join(s.heard.states, " "), strings.Join(s.states, " "); got != want || s.heard.broke != nil {
		t.Errorf("over /ws the task was %s (%v), over SSE %s", got, s.heard.broke, want)
	}
}

type download struct {
	data []byte
	sum  string
}

// artifacts downloads what the task left, and expects it to be what the task says.
func (s *taskStory) artifacts(t *testing.T, c *yardtest.Client) map[string]download {
	t.Helper()
	files := map[string]download{}
	for _, a := range s.task.Result.Artifacts {
		status, data, err := c.Do(t.Context(), http.MethodGet, "/api/v1/tasks/"+s.task.ID+"/artifacts/"+a.Path, nil)
		hash := sha256.Sum256(data)
		sum := hex.EncodeToString(hash[:])
		if err != nil || status != http.StatusOK || int64(len(data)) != a.Size || sum != a.SHA256 {
			t.Errorf("%s: status %d (%v), %d bytes with the sum %s; want %d with %s", a.Path, status, err, len(data), sum, a.Size, a.SHA256)
		}
		files[a.Path] = download{data, sum}
	}
	if status, _, err := c.Do(t.Context(), http.MethodGet, "/api/v1/tasks/"+s.task.ID+"/artifacts/README.md.not", nil); err != nil || status != http.StatusNotFound {
		t.Errorf("a file that was not kept: status %d, %v", status, err)
	}
	return files
}

// filesHolding returns the files below dir that hold one of texts.
func filesHolding(t *testing.T, dir string, texts ...string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a session that is just being removed
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		for _, text := range texts {
			if bytes.Contains(data, []byte(text)) {
				found = append(found, strings.TrimPrefix(path, dir))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
