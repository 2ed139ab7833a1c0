package gateway

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	json "github.com/go-json-experiment/json/v1"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/rpc"
	"agentyard.dev/libs/token"
)

// taskRow is what the feed tells of a task: its record without what may be large. Its fields are api.Task's.
type taskRow struct {
	ID         string        `json:"id"`
	Tenant     string        `json:"tenant"`
	Owner      string        `json:"owner"`
	Name       string        `json:"name,omitempty"`
	Title      string        `json:"title,omitempty"`
	Queue      string        `json:"queue,omitempty"`
	Schedule   string        `json:"schedule,omitempty"`
	State      api.TaskState `json:"state"`
	Reason     string        `json:"reason,omitempty"`
	Attempt    int           `json:"attempt"`
	Session    string        `json:"session,omitempty"`
	DeadLetter bool          `json:"dead_letter,omitempty"`
	CreatedAt  time.Time     `json:"created_at"`
	EndedAt    *time.Time    `json:"ended_at,omitempty"`
	Rev        uint64        `json:"rev"`
}

// tasks is what the gateway knows of every task: enough to tell who may hear of which change.
type tasks struct {
	ledger *bus.Ledger[api.TaskRecord]
	view   *bus.View[taskRow]
	head   atomic.Uint64 // the newest revision in the view
}

func newTasks(c *bus.Conn, changed func(bus.Key)) *tasks {
	t := &tasks{ledger: bus.ReadLedger[api.TaskRecord](c, "tasks")}
	t.view = bus.ReadLedger[taskRow](c, "tasks").View(bus.ViewConfig[taskRow]{
		Indexes: map[string]func(bus.Entry[taskRow]) []string{
			byTenant: func(e bus.Entry[taskRow]) []string { return []string{e.Key.Tenant} },
			byOwner:  func(e bus.Entry[taskRow]) []string { return []string{ownerValue(e.Key.Tenant, e.State.Owner)} },
		},
		OnChange: func(_ *bus.Entry[taskRow], now bus.Entry[taskRow]) {
			t.head.Store(max(t.head.Load(), now.Rev))
			changed(now.Key)
		},
	})
	return t
}

// since returns the tasks that p may see whose newest change is after rev: all, or those that keys name, among which sessions' keys name none.
func (t *tasks) since(p api.Principal, rev uint64, keys []bus.Key, all bool) []bus.Entry[taskRow] {
	keep := func(e bus.Entry[taskRow]) bool {
		return e.Rev > rev && p.CanOn(api.TaskRead, e.Key.Tenant, e.State.Owner)
	}
	if all {
		index, value := among(p, api.TaskRead)
		return t.view.List(index, value, 0, maxVisible, keep)
	}
	var out []bus.Entry[taskRow]
	for _, k := range keys {
		if e, ok := t.view.Get(k); ok && keep(e) {
			out = append(out, e)
		}
	}
	return out
}

func isTask(key bus.Key) bool { return len(key.ID) > 0 && key.ID[0] == byte(api.KindTask) }

// taskItems is the tasks' part of one round of the feed. What changes after head is for the next round.
func (g *Gateway) taskItems(p api.Principal, reader *feedReader, keys []bus.Key, all bool, last, head uint64) ([]feedItem, error) {
	rows := g.tasks.since(p, last, keys, all)
	slices.SortFunc(rows, func(a, b bus.Entry[taskRow]) int { return cmp.Compare(a.Rev, b.Rev) })
	var items []feedItem
	for _, e := range rows {
		if e.Rev > head {
			reader.notify(e.Key)
			continue
		}
		e.State.Rev = e.Rev
		data, err := json.Marshal(e.Change)
		if err != nil {
			return nil, err
		}
		items = append(items, feedItem{rev: e.Rev, data: data})
	}
	return items, nil
}

// task asks the scheduler for a task in the caller's name.
func (g *Gateway) task(r *http.Request, c *caller) (api.Task, error) {
	return g.taskOf(r.Context(), c, r.PathValue("id"))
}

func (g *Gateway) taskOf(ctx context.Context, c *caller, id string) (api.Task, error) {
	return rpc.Call(token.WithRaw(api.WithPrincipal(ctx, c.Principal), c.raw), g.rpc, api.GetTask, api.TaskRef{ID: id})
}

// serveArtifact is GET /api/v1/tasks/{id}/artifacts/{path}: one file that a task left, as a download.
func (g *Gateway) serveArtifact(w *recorder, r *http.Request, c *caller) {
	t, err := g.task(r, c)
	if err != nil {
		fail(w, r, err)
		return
	}
	name := r.PathValue("path")
	i := -1
	if t.Result != nil {
		i = slices.IndexFunc(t.Result.Artifacts, func(a api.TaskArtifact) bool { return a.Path == name })
	}
	if i < 0 {
		fail(w, r, api.Errorf(api.CodeNotFound, "the task left no such file"))
		return
	}
	a := t.Result.Artifacts[i]
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", "attachment; filename*=UTF-8''"+url.PathEscape(path.Base(a.Path)))
	h.Set("Content-Length", strconv.FormatInt(a.Size, 10))
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("ETag", `"`+a.SHA256+`"`)
	if strings.Contains(r.Header.Get("If-None-Match"), a.SHA256) {
		h.Del("Content-Length")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return
	}
	err = g.blobs.Get(r.Context(), t.Tenant, t.ID, bus.Blob{ID: a.Blob, Size: a.Size, SHA256: a.SHA256}, extending{w})
	switch {
	case err == nil:
	case w.status == 0:
		for _, name := range []string{"Content-Disposition", "Content-Length", "ETag"} {
			h.Del(name)
		}
		fail(w, r, err)
	default:
		panic(http.ErrAbortHandler) // the client must not take what it has for all
	}
}

// extending gives each write of a long answer its own time.
type extending struct{ w *recorder }

func (e extending) Write(p []byte) (int, error) {
	e.w.extend()
	return e.w.Write(p)
}

// serveTaskEvents is GET /api/v1/tasks/{id}/events: event "task" for each change of the task, its data an api.Change with the
// public Task, and between them the events of its sessions as GET /sessions/{id}/events gives them, up to the end of the task's turn. An id is the revision of the newest change
// that was told, a dot, and the place in the session of that change. The stream ends when the task has.
func (g *Gateway) serveTaskEvents(w *recorder, r *http.Request, c *caller) {
	t, err := g.task(r, c)
	if err != nil {
		fail(w, r, err)
		return
	}
	places, follow, err := parseStart(r, make([]bus.Key, 2))
	if err != nil {
		fail(w, r, err)
		return
	}
	ctx, st, out, ok := g.openSSE(w, r, "sse", c)
	if !ok {
		return
	}
	defer st.close()
	e := &taskEvents{g: g, st: st, out: out, end: st.end, key: bus.Key{Tenant: t.Tenant, ID: t.ID}, owner: t.Owner, rev: places[0], seq: places[1], follow: follow}
	st.end(e.run(ctx))
	out.close(context.Cause(ctx))
}

// taskEvents is one stream of a task's events.
type taskEvents struct {
	g      *Gateway
	st     *stream
	out    sink
	end    context.CancelCauseFunc // ends the context of run
	key    bus.Key
	owner  string
	follow bool

	mu      sync.Mutex
	rev     uint64 // told up to here
	seq     uint64 // of the present session
	part    logPart
	session bus.Key
	stop    func() // ends the follower of the present session; nil: there is none
}

const taskPage = 100

func (e *taskEvents) run(ctx context.Context) error {
	defer func() {
		if e.stop != nil {
			e.stop()
		}
	}()
	if err := e.resume(ctx); err != nil {
		return err
	}
	for {
		changes, err := e.g.tasks.ledger.History(ctx, e.key, e.rev, taskPage)
		if err != nil {
			return err
		}
		for _, c := range changes {
			if err := e.tell(ctx, c); err != nil {
				return err
			}
			if c.Deleted {
				return errNoTask
			}
		}
		if len(changes) == taskPage {
			continue
		}
		if n := len(changes); !e.follow || n > 0 && changes[n-1].State.State.Final() || n == 0 && e.ended(ctx) {
			if err := e.leave(ctx); err != nil {
				return err
			}
			return errAtHead
		}
		if _, err := e.g.tasks.view.Wait(ctx, e.key, func(now bus.Entry[taskRow]) bool { return now.Rev > e.rev }); err != nil {
			return context.Cause(ctx)
		}
	}
}

// allowed ends the stream of one who may not see the task any more: a credential that was asked for again may allow less than it did.
func (e *taskEvents) allowed() error {
	if e.st.who.Load().CanOn(api.TaskRead, e.key.Tenant, e.owner) {
		return nil
	}
	e.end(errNoTask)
	return errNoTask
}

var errNoTask = api.Errorf(api.CodeNotFound, "no such task")

func (e *taskEvents) ended(ctx context.Context) bool {
	now, err := e.g.tasks.ledger.Get(ctx, e.key)
	return err != nil || now.State.State.Final() && now.Rev <= e.rev
}

// resume takes up the session of the change that was told last.
func (e *taskEvents) resume(ctx context.Context) error {
	if e.rev == 0 {
		return nil
	}
	changes, err := e.g.tasks.ledger.History(ctx, e.key, e.rev-1, 1)
	if err != nil {
		return err
	}
	if len(changes) == 1 && changes[0].Rev == e.rev {
		e.enter(ctx, changes[0].State)
	}
	return nil
}

// tell sends a change; what its session said before comes first.
func (e *taskEvents) tell(ctx context.Context, c api.Change[api.TaskRecord]) error {
	if e.session.ID != "" && (c.State.SessionID != e.session.ID || c.State.Message != e.part.message || !c.State.State.Active()) {
		if err := e.leave(ctx); err != nil {
			return err
		}
	}
	if err := e.allowed(); err != nil {
		return err
	}
	public := c.State.Task
	public.Env, public.Rev = nil, c.Rev
	data, err := json.Marshal(api.Change[api.Task]{Rev: c.Rev, At: c.At, Actor: c.Actor, Verb: c.Verb, Reason: c.Reason, Deleted: c.Deleted, State: public})
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.rev = c.Rev
	err = e.out.send(e.id(), "task", data, true)
	e.mu.Unlock()
	if err != nil {
		return err
	}
	e.enter(ctx, c.State)
	return nil
}

// id needs the lock.
func (e *taskEvents) id() []byte {
	return strconv.AppendUint(append(strconv.AppendUint(nil, e.rev, 10), '.'), e.seq, 10)
}

// enter follows the session of an active task, if nobody does yet.
func (e *taskEvents) enter(ctx context.Context, rec api.TaskRecord) {
	if !rec.State.Active() || rec.SessionID == "" || e.session.ID == rec.SessionID {
		return
	}
	e.session = bus.Key{Tenant: e.key.Tenant, ID: rec.SessionID}
	e.part = logPart{message: rec.Message, before: rec.SessionShared && e.seq == 0}
	fctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	session, told := e.session, e.seq
	go func() {
		defer close(ended)
		// It ends with its context or with the stream; leave reads what it did not send.
		_ = e.g.follow(fctx, session, fromLast(told), e.send, nil)
	}()
	e.stop = func() {
		cancel()
		<-ended
		e.stop = nil
	}
}

func (e *taskEvents) send(ev *bus.HubEvent) error {
	if err := e.allowed(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.part.after {
		return errPartOver
	}
	gap := ev.Type == api.EventGap
	if !e.part.holds(ev) || ev.Seq <= e.seq && !gap {
		return nil
	}
	if !gap || ev.To == ev.Seq { // the new end of a log that was taken back
		e.seq = ev.Seq
	}
	return e.out.send(e.id(), ev.Type, ev.JSON, true)
}

// fromLast is where to read from so that the event told last comes again: it says where in the task's part the rest begins.
func fromLast(told uint64) uint64 { return told - min(told, 1) }

// errPartOver ends the reading of a session's log after the task's part of it.
var errPartOver = errors.New("the rest is not the task's")

// logPart is the part of a session's log that is one task's: from the task's message on, or from the log's beginning if the session did nothing else before, to the
// end of that message's turn. What a session does it does in turns, one after another; who else may send it messages does so at any time.
type logPart struct {
	message string
	before  bool // the message has not come
	turn    bool // its turn has begun
	after   bool // its turn has ended
}

// holds takes the log's next event into account and reports whether it is in the part.
func (p *logPart) holds(ev *bus.HubEvent) bool {
	if p.after {
		return false
	}
	if p.message == "" || p.turn && ev.Type != api.EventUserMessage && ev.Type != api.EventStatus {
		return true // as nearly every event is: it need not be decoded
	}
	got, err := ev.Event()
	switch {
	case err != nil:
		return false
	case got.Type == api.EventUserMessage:
		p.before = p.before && got.MessageID != p.message
		return got.MessageID == p.message
	case got.ReplyTo == p.message:
		p.before, p.turn = false, true
		p.after = got.Type == api.EventStatus && got.Activity == api.ActivityIdle
		return true
	}
	return !p.before && got.ReplyTo == "" // or the turn of a message that was sent before
}

// leave ends following the present session once all that it has said was sent.
func (e *taskEvents) leave(ctx context.Context) error {
	if e.session.ID == "" {
		return nil
	}
	if e.stop != nil {
		e.stop()
	}
	rest, cancel := context.WithCancel(ctx)
	defer cancel()
	err := e.g.follow(rest, e.session, fromLast(e.seq), e.send, cancel)
	e.session = bus.Key{}
	e.mu.Lock()
	e.seq = 0
	e.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case rest.Err() != nil || errors.Is(err, errPartOver):
		return nil
	}
	return err
}
