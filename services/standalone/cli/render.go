package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"agentyard.dev/libs/api"
)

// renderer writes a session's events: for a person as a conversation, for a program as a line of
// JSON each.
type renderer struct {
	w     io.Writer
	json  bool
	color bool
	quiet bool // leave out the user's own messages, which the person has just typed

	message string // the message whose chunks are being written
	written int    // how many bytes of it
	midline bool   // the last thing written did not end its line
	tools   map[string]string
}

func (a *app) renderer() *renderer {
	return &renderer{
		w: a.Out, json: a.output == "json", tools: map[string]string{},
		color: tty(a.Out) && a.Getenv("NO_COLOR") == "" && a.Getenv("TERM") != "dumb",
	}
}

// The colours (ECMA-48 SGR parameters).
const (
	dim    = "2"
	bold   = "1"
	yellow = "33"
	red    = "31"
)

func (r *renderer) paint(color, text string) string {
	if !r.color {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// event writes one event.
func (r *renderer) event(ev api.Event) error {
	if r.json {
		data, err := json.Marshal(ev)
		if err != nil {
			return err
		}
		_, err = r.w.Write(append(data, '\n'))
		return err
	}
	var err error
	switch ev.Type {
	case api.EventAgentMessageChunk:
		err = r.chunk(ev.MessageID, ev.Delta)
	case api.EventAgentMessage:
		err = r.whole(ev)
	default:
		if text := r.line(ev); text != "" {
			err = r.full(text)
		}
	}
	return err
}

// line is the line that a person sees of an event that is not the agent's text; "" for none.
func (r *renderer) line(ev api.Event) string {
	switch ev.Type {
	case api.EventUserMessage:
		if r.quiet {
			return ""
		}
		return r.paint(bold, "> "+strings.ReplaceAll(clean(ev.Content), "\n", "\n> ")) + attached(ev.Attachments)
	case api.EventToolCall:
		return r.tool(ev)
	case api.EventApprovalRequest:
		return r.paint(yellow, "? "+line(ev.Title)) + "  " + ev.ApprovalID + "  [" + options(ev.Options) + "]"
	case api.EventApprovalAnswer:
		return r.paint(dim, "  answered: "+line(ev.Option))
	case api.EventInterrupt:
		return r.paint(dim, "  interrupted")
	case api.EventStatus:
		return r.status(ev)
	case api.EventError:
		return r.paint(red, "! "+line(ev.Detail))
	case api.EventGap:
		if ev.To < ev.From {
			return r.paint(red, "! the server lost the newest events, and goes on from those before them")
		}
		return r.paint(red, fmt.Sprintf("! of events %d to %d not all are kept any more", ev.From, ev.To))
	}
	return "" // thoughts, plans, usage and raw terminal output: -o json has them
}

func (r *renderer) status(ev api.Event) string {
	switch {
	case ev.State == api.StateFailed:
		return r.paint(red, "! the session failed: "+or(line(ev.Reason), "no reason given"))
	case ev.Reason == "" && (ev.State == api.StatePending || ev.State == api.StateStarting || ev.State == api.StateResuming):
		return "" // on the way
	case ev.State != "" && ev.State != api.StateRunning:
		return r.paint(dim, "  "+strings.TrimSpace(string(ev.State)+"  "+line(ev.Reason)))
	}
	return ""
}

// tool shows a call when it begins and when it ends, but not each step between.
func (r *renderer) tool(ev api.Event) string {
	title, known := r.tools[ev.ToolCallID]
	if ev.Title != "" {
		title = line(ev.Title)
	}
	switch ev.Status {
	case "completed", "failed":
		delete(r.tools, ev.ToolCallID)
		text := ""
		if !known {
			text = r.paint(dim, "* ") + or(title, ev.Kind) + "\n"
		}
		if out := strings.TrimRight(clean(ev.Content), "\n"); out != "" {
			text += r.paint(dim, "  "+strings.ReplaceAll(out, "\n", "\n  ")) + "\n"
		}
		if ev.Status == "failed" {
			text += r.paint(red, "  failed") + "\n"
		}
		return strings.TrimSuffix(text, "\n")
	}
	r.tools[ev.ToolCallID] = title
	if known {
		return ""
	}
	return r.paint(dim, "* ") + or(title, ev.Kind)
}

// chunk writes a piece of the agent's text as it comes.
func (r *renderer) chunk(id, delta string) error {
	if id != r.message {
		if err := r.endLine(); err != nil {
			return err
		}
		r.message, r.written = id, 0
	}
	r.written += len(delta)
	return r.put(clean(delta))
}

// whole writes what a message has beyond its chunks.
func (r *renderer) whole(ev api.Event) error {
	rest := ev.Content
	if ev.MessageID == r.message && r.written <= len(rest) {
		rest = rest[r.written:]
	} else if err := r.endLine(); err != nil {
		return err
	}
	r.message, r.written = "", 0
	if err := r.put(clean(rest)); err != nil {
		return err
	}
	return r.endLine()
}

func (r *renderer) put(text string) error {
	if text == "" {
		return nil
	}
	r.midline = !strings.HasSuffix(text, "\n")
	_, err := io.WriteString(r.w, text)
	return err
}

func (r *renderer) endLine() error {
	if !r.midline {
		return nil
	}
	r.midline = false
	_, err := io.WriteString(r.w, "\n")
	return err
}

// full writes a line of its own.
func (r *renderer) full(text string) error {
	if err := r.endLine(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(r.w, text)
	return err
}

func options(opts []api.ApprovalOption) string {
	var names []string
	for _, o := range opts {
		name := line(o.Option)
		if o.Label != "" && !strings.EqualFold(o.Label, o.Option) {
			name += ": " + line(o.Label)
		}
		names = append(names, name)
	}
	return strings.Join(names, " | ")
}

func attached(files []api.Attachment) string {
	var text string
	for _, f := range files {
		text += "\n  + " + line(f.Name)
	}
	return text
}
