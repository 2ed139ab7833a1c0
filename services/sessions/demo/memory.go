package demo

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"agentyard.dev/libs/api"
)

// entry is one line of a remembered conversation.
type entry struct {
	Role string `json:"role"`
	Text string `json:"text"`
}

const maxRecalled = 200 // entries that load replays

func (d *demo) file(id string) (string, error) {
	if d.home == "" {
		return "", errors.New("there is no home directory")
	}
	if !api.ValidID('d', id) {
		return "", fmt.Errorf("%q is not a conversation's name", id)
	}
	return filepath.Join(d.home, ".agentyard-demo", id+".jsonl"), nil
}

// remember appends one exchange. An agent that cannot write its home forgets, no more.
func (d *demo) remember(id, said, answered string) {
	name, err := d.file(id)
	if err != nil {
		return
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	w := json.NewEncoder(f)
	_ = w.Encode(entry{"user", cut(said)})
	_ = w.Encode(entry{"agent", answered})
}

func (d *demo) recall(id string) ([]entry, error) {
	name, err := d.file(id)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var entries []entry
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e entry
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue // the end of a write that a crash cut off
		}
		if entries = append(entries, e); len(entries) > maxRecalled {
			entries = entries[1:]
		}
	}
	return entries, lines.Err()
}
