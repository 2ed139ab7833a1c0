package cli

import (
	"fmt"
	"io"
	"time"
)

// progress is one line on a terminal that is written again and again; elsewhere it is nothing.
type progress struct {
	w     io.Writer // nil: not a terminal
	began time.Time
	shown bool
}

func (a *app) progress() *progress {
	p := &progress{began: time.Now()}
	if tty(a.Err) && a.output == "table" {
		p.w = a.Err
	}
	return p
}

// patience is how long something may take before a person is told about it.
const patience = 300 * time.Millisecond

func (p *progress) say(format string, args ...any) {
	since := time.Since(p.began)
	if p.w == nil || since < patience {
		return
	}
	p.shown = true
	fmt.Fprintf(p.w, "\r\x1b[K%s  %.1fs", shorten(line(fmt.Sprintf(format, args...)), 70), since.Seconds())
}

func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
