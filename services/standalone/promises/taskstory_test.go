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
	"testing"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
	"agentyard.dev/services/standalone/yardtest"
)

// taskStory is a task from its creation to its end, as its event stream told it.
type taskStory struct {
	task   api.Task
	states []string // each once, as they followed each other
	events []api.Event
	said   string // what the agent and its tools said

	socket chan []api.Event // the same session's events over /ws, up to the turn's end
}

// storyWithin bounds one task, on a machine that is busy with other tests.
const storyWithin = 3 * time.Minute

// follow makes a task and follows it to its end. It calls each, if there is one, for each change and each event.
func (s *taskStory) follow(t *testing.T, c *yardtest.Client, spec api.TaskSpec, each func(*api.Change[api.Task], *api.Event)) {
	t.Helper()
	var made api.Task
	c.Must(t, http.MethodPost, "/api/v1/tasks", spec, &made)
	s.task, s.socket = made, make(chan []api.Event, 1)
	stuck := time.AfterFunc(storyWithin, func() {
		var now api.Task
		c.Must(t, http.MethodGet, "/api/v1/tasks/"+made.ID, nil, &now)
		t.Errorf("task %s is %s: %s", made.ID, now.State, now.Reason)
		c.Must(t, http.MethodPost, "/api/v1/tasks/"+made.ID+"/cancel", nil, nil)
	})
	defer stuck.Stop()
	followed := false
	c.TaskEvents(t, made.ID, func(change *api.Change[api.Task], ev *api.Event) bool {
		if change != nil {
			s.task = change.State
			if state := string(s.task.State); len(s.states) == 0 || s.states[len(s.states)-1] != state {
				s.states = append(s.states, state)
			}
			if s.task.State == api.TaskRunning && !followed {
				followed = true
				go s.listen(t.Context(), c, s.task.SessionID, s.task.Message)
			}
		} else {
			s.events = append(s.events, *ev)
			s.said += ev.Content + ev.Delta + string(ev.Raw)
		}
		if each != nil {
			each(change, ev)
		}
		return true
	})
}

// listen follows the session over /ws until the message's turn has ended.
func (s *taskStory) listen(ctx context.Context, c *yardtest.Client, session, message string) {
	var events []api.Event
	defer func() { s.socket <- events }()
	cl, err := client.New(c.URL, c.Key)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storyWithin)
	defer cancel()
	enough := errors.New("enough")
	_ = cl.Attach(client.EventsConfig{Session: session}).Run(ctx, func(ev api.Event) error {
		events = append(events, ev)
		if ev.Type == api.EventStatus && ev.ReplyTo == message && ev.Activity == api.ActivityIdle {
			return enough
		}
		return nil
	})
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
	same("WebSocket", <-s.socket)
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
