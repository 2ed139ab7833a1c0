package tcagent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	json "github.com/go-json-experiment/json/v1"

	"agentyard.dev/libs/api"
)

// accepted is a plan that the agent took on, and its revision: an older one is never taken on after it.
type accepted struct {
	position
	// Own is the position of the session's own entry, where it shares a newer plan; zero: it does not.
	Own    position              `json:"own,omitzero"`
	Record api.TrafficPlanRecord `json:"record"`
}

// position is where a change stands: revisions count within an epoch, and begin anew when the bus lost its data (bus.Entry).
type position struct {
	Epoch int64  `json:"epoch,omitempty"`
	Rev   uint64 `json:"rev"`
}

// store keeps the last accepted plan of each session, one file each, so that an agent that starts without the bus knows what holds.
type store struct{ dir string } // empty: it keeps nothing

const planSuffix = ".json"

// load returns what is kept. A file that cannot be read is passed over: the bus has the plan.
func (s store) load(log *slog.Logger) ([]accepted, error) {
	if s.dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of plans: %w", err)
	}
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("read the directory of plans: %w", err)
	}
	var found []accepted
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), planSuffix)
		if !ok {
			continue
		}
		var a accepted
		data, err := os.ReadFile(filepath.Join(s.dir, f.Name()))
		if err == nil {
			err = json.Unmarshal(data, &a)
		}
		if err == nil && a.Record.Session != name {
			err = errors.New("it is another session's")
		}
		if err != nil {
			log.Warn("a kept plan cannot be read", "session", name, "err", err)
			continue
		}
		found = append(found, a)
	}
	return found, nil
}

// put keeps a, whole or not at all.
func (s store) put(a accepted) error {
	if s.dir == "" {
		return nil
	}
	data, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("keep plan: %w", err)
	}
	tmp, err := os.CreateTemp(s.dir, ".plan-*") // mode 0600
	if err != nil {
		return fmt.Errorf("keep plan: %w", err)
	}
	_, err = tmp.Write(data)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), s.file(a.Record.Session))
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("keep plan: %w", err)
	}
	return nil
}

func (s store) remove(session string) error {
	if s.dir == "" {
		return nil
	}
	if err := os.Remove(s.file(session)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget plan: %w", err)
	}
	return nil
}

// file is where a session's plan is; ids are subject tokens, without separators.
func (s store) file(session string) string {
	return filepath.Join(s.dir, filepath.Base(session)+planSuffix)
}
