package yardtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/coder/websocket"

	"agentyard.dev/libs/api"
)

// maxFrame is above any frame that a yard sends.
const maxFrame = 8 << 20

// TaskSocket is TaskEvents over GET /ws, on one connection and for a goroutine of its own.
func (c *Client) TaskSocket(ctx context.Context, task string, f func(*api.Change[api.Task], *api.Event)) error {
	conn, _, err := websocket.Dial(ctx, c.URL+"/ws", &websocket.DialOptions{ //nolint:bodyclose // the library's
		HTTPClient: c.HTTP, HTTPHeader: http.Header{"Authorization": {"Bearer " + c.Key}},
	})
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(maxFrame)
	if err := conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"op":"subscribe","task":%q}`, task)); err != nil {
		return err
	}
	for {
		_, data, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		var frame struct {
			Change *struct {
				Task string
				Type api.EventType
				Data json.RawMessage
			}
			Error, End json.RawMessage
		}
		if err := json.Unmarshal(data, &frame); err != nil {
			return fmt.Errorf("%w in %s", err, data)
		}
		switch {
		case frame.Error != nil:
			return fmt.Errorf("refused: %s", frame.Error)
		case frame.End != nil:
			return nil
		case frame.Change == nil: // the acknowledgement
			continue
		case frame.Change.Task != task:
			return fmt.Errorf("of another task: %s", data)
		}
		change, ev, err := taskEvent(string(frame.Change.Type), frame.Change.Data)
		if err != nil {
			return err
		}
		f(change, ev)
	}
}

// taskEvent reads one event of a task's stream: a change of the task, or an event of its session.
func taskEvent(kind string, data []byte) (*api.Change[api.Task], *api.Event, error) {
	if kind == "task" {
		change := new(api.Change[api.Task])
		if err := json.Unmarshal(data, change); err != nil {
			return nil, nil, fmt.Errorf("%w in %s", err, data)
		}
		return change, nil, nil
	}
	ev := new(api.Event)
	if err := json.Unmarshal(data, ev); err != nil {
		return nil, nil, fmt.Errorf("%w in %s", err, data)
	}
	return nil, ev, nil
}
