// Package terminal drives any program that talks to a person on a terminal. It runs the
// program in a PTY, keeps the screen that a person would see, types the messages, and
// takes for the answer what the screen shows after the program has come to rest.
//
// A program is at rest when the screen has not changed for a while and, where the
// kernel tells, no job of it is in the foreground: a shell works as long as its command
// runs. What the program prints is also in the log as it is (terminal events), in pieces
// that are collected for a moment; a program that prints without end waits for the log.
package terminal

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/creack/pty"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/runner/agent"
)

const (
	pollEvery   = 20 * time.Millisecond
	settle      = 2 * time.Second        // of a program that may think without showing it
	settleShell = 150 * time.Millisecond // of a shell, whose foreground job tells
	startMost   = 10 * time.Second       // a program that never rests is ready then
	beginMost   = 5 * time.Second        // for a program to react to a message at all
	typedMost   = 2 * time.Second        // for the program to show what was typed
	typedSettle = 60 * time.Millisecond
	escapeGrace = 3 * time.Second // between Escape and Ctrl-C
	writeWait   = 10 * time.Second
	collect     = 40 * time.Millisecond // of output in one terminal event
	maxPiece    = 32 << 10
)

// Keys.
const (
	keyEscape = "\x1b"
	keyCtrlC  = "\x03"
	keyEnter  = "\r"
	pasteOn   = "\x1b[200~"
	pasteOff  = "\x1b[201~"
)

// client is the Agent.
type client struct {
	program *agent.Program
	tty     *os.File
	screen  *screen
	sink    agent.Sink
	log     *slog.Logger
	shell   bool
	settle  time.Duration

	done    chan struct{} // the process is gone
	ran     chan struct{} // the reader is done
	exit    error         // after done
	cancel  context.CancelFunc
	pending pending

	showing atomic.Bool // output was read and is not on the screen yet

	mu     sync.Mutex
	turn   *turn // nil between turns
	atRest int   // the foreground process group when the program was ready; 0: not known
}

type turn struct {
	interrupted time.Time
	escalated   bool
}

var shells = map[string]bool{"sh": true, "bash": true, "dash": true, "zsh": true, "ksh": true, "fish": true, "ash": true}

// Start starts cfg.Argv in a PTY and returns when it has come to rest.
func Start(ctx context.Context, cfg agent.Config) (agent.Agent, error) {
	program, err := cfg.Spawn(cfg.Argv, "TERM=xterm-256color", "COLUMNS=80", "NO_COLOR=1")
	if err != nil {
		return nil, err
	}
	tty, err := pty.StartWithSize(program.Cmd, &pty.Winsize{Rows: rows, Cols: columns})
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &client{
		program: program, tty: tty, sink: cfg.Sink, log: cfg.Logger, settle: settle, done: make(chan struct{}), ran: make(chan struct{}),
		cancel: cancel, shell: shells[filepath.Base(cfg.Argv[0])],
	}
	if c.shell {
		c.settle = settleShell
	}
	screen, stopScreen := newScreen(keyboard{tty})
	c.screen = screen
	go func() {
		c.exit = program.Wait()
		program.End()
		close(c.done)
		// The terminal's last output is still there to be read; a process that was left
		// behind must not keep it open for ever.
		time.AfterFunc(time.Second, func() { tty.Close() })
	}()
	go func() {
		defer close(c.ran)
		defer stopScreen()
		c.read(life)
	}()
	if err := c.rest(ctx, startMost, nil); err != nil {
		_ = c.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	c.mu.Lock()
	c.atRest, _ = foreground(tty)
	c.mu.Unlock()
	return c, nil
}

// keyboard writes to the program, for a bounded time.
type keyboard struct{ tty *os.File }

func (k keyboard) Write(p []byte) (int, error) {
	_ = k.tty.SetWriteDeadline(time.Now().Add(writeWait))
	return k.tty.Write(p)
}

// read shows and logs the program's output until it ends.
func (c *client) read(ctx context.Context) {
	var flusher sync.WaitGroup
	stop := make(chan struct{})
	c.pending.more = make(chan struct{}, 1)
	c.pending.space = make(chan struct{}, 1)
	flusher.Go(func() { c.flush(ctx, stop) })
	buf := make([]byte, maxPiece)
	for {
		n, err := c.tty.Read(buf)
		if n > 0 {
			c.showing.Store(true)
			_, _ = c.screen.Write(buf[:n])
			c.pending.add(ctx, buf[:n])
			c.showing.Store(false)
		}
		if err != nil {
			break
		}
	}
	close(stop)
	flusher.Wait()
}

// flush hands the output on, collected for a moment.
func (c *client) flush(ctx context.Context, stop <-chan struct{}) {
	emit := func() {
		if data := c.pending.take(); len(data) > 0 {
			_ = c.sink.Emit(ctx, api.Event{Type: api.EventTerminal, Data: data}) // fails only at the end of all
		}
	}
	for {
		select {
		case <-c.pending.more:
		case <-stop:
			emit()
			return
		}
		select {
		case <-time.After(collect):
		case <-stop:
		}
		emit()
	}
}

// pending is output that was not logged yet: at most one piece.
type pending struct {
	mu    sync.Mutex
	data  []byte
	more  chan struct{} // of capacity 1: there is some
	space chan struct{} // of capacity 1: some was taken
}

func (p *pending) add(ctx context.Context, data []byte) {
	for {
		p.mu.Lock()
		if len(p.data) == 0 || len(p.data)+len(data) <= maxPiece {
			p.data = append(p.data, data...)
			p.mu.Unlock()
			signal(p.more)
			return
		}
		p.mu.Unlock()
		select {
		case <-p.space:
		case <-ctx.Done():
			return
		}
	}
}

func (p *pending) take() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	data := p.data
	p.data = nil
	signal(p.space)
	return data
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// rest waits until the program is at rest, at most for most (0: for ever).
func (c *client) rest(ctx context.Context, most time.Duration, t *turn) error {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	begun := time.Now()
	last, since := c.screen.version(), begun
	moved := t == nil && last > 0
	for {
		select {
		case <-c.done:
			return &agent.DiedError{Detail: agent.Describe(c.exit, lastLine(c.screen.lines()))}
		case <-ctx.Done():
			return ctx.Err()
		case now := <-poll.C:
			if v := c.screen.version(); v != last || c.showing.Load() || unread(c.tty) || c.busy() {
				last, since, moved = v, now, true
			}
			if t != nil {
				c.escalate(t, now)
			}
			// A screen that has not changed at all is a program that has not begun.
			moved = moved || t != nil && now.Sub(begun) > beginMost
			if moved && now.Sub(since) >= c.settle || most > 0 && now.Sub(begun) >= most {
				return nil
			}
		}
	}
}

// busy reports whether another job than the program itself is in the foreground.
func (c *client) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.atRest == 0 {
		return false
	}
	now, ok := foreground(c.tty)
	return ok && now != c.atRest
}

func lastLine(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return lines[len(lines)-1]
}

// Prompt implements agent.Agent.
func (c *client) Prompt(ctx context.Context, p agent.Prompt) error {
	t := &turn{}
	c.mu.Lock()
	c.turn = t
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.turn = nil
		c.mu.Unlock()
	}()
	before := c.screen.lines()
	text := strings.TrimRight(clean(p.Content), "\n")
	if err := c.enter(ctx, text); err != nil {
		return err
	}
	if err := c.rest(ctx, 0, t); err != nil {
		return err
	}
	for _, a := range p.Attachments {
		c.log.Warn("a terminal takes no attachments", "name", a.Name)
	}
	answer := extract(before, c.screen.lines(), text)
	if answer == "" {
		return nil
	}
	return c.sink.Emit(ctx, api.Event{Type: api.EventAgentMessageChunk, Delta: answer})
}

// enter types text and, when the program has shown it, Enter.
func (c *client) enter(ctx context.Context, text string) error {
	was := c.screen.version()
	keys := strings.ReplaceAll(text, "\n", keyEnter)
	if strings.Contains(text, "\n") && c.screen.wantsPaste() {
		keys = pasteOn + text + pasteOff
	}
	if err := c.typeKeys(keys); err != nil {
		return err
	}
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	begun := time.Now()
	last, since := was, begun
	for wait := true; wait && text != ""; {
		select {
		case <-c.done:
			wait = false
		case <-ctx.Done():
			return ctx.Err()
		case now := <-poll.C:
			if v := c.screen.version(); v != last {
				last, since = v, now
			}
			wait = now.Sub(begun) < typedMost && (last == was || now.Sub(since) < typedSettle)
		}
	}
	return c.typeKeys(keyEnter)
}

// clean removes control characters that would be keys: a message is text.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ReplaceAll(s, "\r\n", "\n"))
}

func (c *client) typeKeys(keys string) error {
	_, err := keyboard{c.tty}.Write([]byte(keys))
	select {
	case <-c.done:
		return &agent.DiedError{Detail: agent.Describe(c.exit, lastLine(c.screen.lines()))}
	default:
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("the program does not read its input")
	}
	return err
}

// Type implements agent.Typist.
func (c *client) Type(_ context.Context, keys []byte) error { return c.typeKeys(string(keys)) }

// Interrupt implements agent.Agent: Ctrl-C for a shell's command; Escape for another
// program, most of which end at a Ctrl-C, and Ctrl-C when that does not help.
func (c *client) Interrupt(context.Context) error {
	c.mu.Lock()
	t := c.turn
	again := false
	if t != nil {
		again = !t.interrupted.IsZero()
		if !again {
			t.interrupted = time.Now()
		}
	}
	c.mu.Unlock()
	switch {
	case t == nil:
		return nil
	case c.shell || again:
		return c.typeKeys(keyCtrlC)
	}
	return c.typeKeys(keyEscape)
}

func (c *client) escalate(t *turn, now time.Time) {
	c.mu.Lock()
	due := !c.shell && !t.escalated && !t.interrupted.IsZero() && now.Sub(t.interrupted) > escapeGrace
	t.escalated = t.escalated || due
	c.mu.Unlock()
	if due {
		_ = c.typeKeys(keyCtrlC) // a program that is gone ends the turn
	}
}

// Info implements agent.Agent.
func (c *client) Info() agent.Info { return agent.Info{Done: c.done} }

// Close implements agent.Agent.
func (c *client) Close(ctx context.Context) error {
	c.cancel()
	err := c.program.Hangup(ctx, c.done)
	c.tty.Close()
	<-c.ran
	return err
}
