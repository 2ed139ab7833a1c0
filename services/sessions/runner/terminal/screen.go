package terminal

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/gdamore/tcell/v3/vt"
)

// The size of the screen: as wide as the agentapi contract's users expect, and high
// enough for a program that draws its whole screen to show a long answer. What scrolls
// off the top is kept as history.
const (
	columns = 80
	rows    = 100
	history = 2000 // lines
)

const maxCell = 64 // bytes of one character with its combining marks

// wide marks the second cell of a wide character.
const wide = "\x00"

// screen is what a person would see of the program's output.
type screen struct {
	em vt.Emulator

	mu      sync.Mutex
	cells   [rows * columns]string // "" is a blank
	past    []string               // lines that scrolled off, at most history (in bursts twice as many)
	pos     vt.Coord
	modes   map[vt.PrivateMode]vt.ModeStatus
	changes uint64 // counts writes that showed
	paste   bool   // the program wants pasted text bracketed
	carry   []byte // the end of the output, where a sequence may be cut
}

// newScreen returns a screen whose answers to the program's questions go to answers.
func newScreen(answers io.Writer) (*screen, func()) {
	s := &screen{modes: map[vt.PrivateMode]vt.ModeStatus{vt.PmShowCursor: vt.ModeOn, vt.PmBlinkCursor: vt.ModeOn, vt.PmSyncOutput: vt.ModeOff}}
	s.em = vt.NewEmulator(s)
	_ = s.em.Start() // fails only when started
	var reader sync.WaitGroup
	reader.Go(func() {
		buf := make([]byte, 1024)
		for {
			n, err := s.em.Read(buf)
			if err != nil {
				return
			}
			_, _ = answers.Write(buf[:n]) // a program that is gone needs no answer
		}
	})
	return s, func() {
		_ = s.em.Stop()
		reader.Wait()
	}
}

// Write shows output.
func (s *screen) Write(p []byte) (int, error) {
	s.watchPaste(p)
	return s.em.Write(p)
}

// watchPaste follows mode 2004 (bracketed paste), also when its sequence is cut in two.
func (s *screen) watchPaste(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := append(s.carry, p...)
	on, off := bytes.LastIndex(data, []byte("\x1b[?2004h")), bytes.LastIndex(data, []byte("\x1b[?2004l"))
	if on != off {
		s.paste = on > off
	}
	s.carry = bytes.Clone(data[max(0, len(data)-7):])
}

func (s *screen) wantsPaste() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paste
}

// version changes whenever what is shown may have.
func (s *screen) version() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

// lines returns the history and the screen as text, without blanks at the ends of lines
// and of the screen.
func (s *screen) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	past := s.past[max(0, len(s.past)-history):]
	out := append(make([]string, 0, len(past)+rows), past...)
	last := len(out)
	for y := range rows {
		line := s.line(y)
		out = append(out, line)
		if line != "" {
			last = len(out)
		}
	}
	return out[:last]
}

// line returns one line of the screen. s.mu is held.
func (s *screen) line(y int) string {
	var b strings.Builder
	for _, c := range s.cells[y*columns : (y+1)*columns] {
		switch c {
		case "":
			b.WriteByte(' ')
		case wide:
		default:
			b.WriteString(c)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

func index(p vt.Coord) int {
	if p.X < 0 || p.X >= columns || p.Y < 0 || p.Y >= rows {
		return -1
	}
	return int(p.Y)*columns + int(p.X)
}

// Put implements vt.Backend.
func (s *screen) Put(p vt.Coord, c vt.Cell) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := index(p)
	if i < 0 {
		return
	}
	text := c.C
	if text == " " || text != "" && text[0] < ' ' {
		text = ""
	}
	if len(text) > maxCell {
		text = text[:maxCell]
		for !utf8.ValidString(text) {
			text = text[:len(text)-1]
		}
	}
	if s.cells[i] == text && c.W != 2 {
		return
	}
	s.changes++
	s.cells[i] = text
	if c.W == 2 && p.X < columns-1 {
		s.cells[i+1] = wide
	}
}

// Blit implements vt.Blitter: it moves a rectangle, which is how the screen scrolls.
func (s *screen) Blit(src, dst, dim vt.Coord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	width := int(min(dim.X, columns-src.X, columns-dst.X))
	height := int(min(dim.Y, rows-src.Y, rows-dst.Y))
	if width <= 0 || height <= 0 || index(src) < 0 || index(dst) < 0 {
		return
	}
	s.changes++
	if dst.X == 0 && dst.Y == 0 && src.X == 0 && width == columns {
		for y := range int(src.Y) {
			s.past = append(s.past, s.line(y))
		}
		if len(s.past) >= 2*history {
			s.past = append(make([]string, 0, 2*history+rows), s.past[len(s.past)-history:]...)
		}
	}
	for n := range height {
		y := n
		if dst.Y > src.Y {
			y = height - 1 - n
		}
		from, to := index(src)+y*columns, index(dst)+y*columns
		copy(s.cells[to:to+width], s.cells[from:from+width])
	}
}

// GetPrivateMode implements vt.Backend.
func (s *screen) GetPrivateMode(m vt.PrivateMode) vt.ModeStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.modes[m]
}

// SetPrivateMode implements vt.Backend.
func (s *screen) SetPrivateMode(m vt.PrivateMode, status vt.ModeStatus) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.modes[m]; known {
		s.modes[m] = status
	}
	return nil
}

// GetSize implements vt.Backend.
func (s *screen) GetSize() vt.Coord { return vt.Coord{X: columns, Y: rows} }

// Colors implements vt.Backend.
func (s *screen) Colors() int { return 256 }

// GetPosition implements vt.Backend.
func (s *screen) GetPosition() vt.Coord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pos
}

// SetPosition implements vt.Backend.
func (s *screen) SetPosition(p vt.Coord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pos = vt.Coord{X: min(columns-1, max(0, p.X)), Y: min(rows-1, max(0, p.Y))}
}

// Reset implements vt.Backend.
func (s *screen) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pos = vt.Coord{}
}

// RaiseResize, Buffering and SetCursor implement vt.Backend; nobody looks.
func (s *screen) RaiseResize()             {}
func (s *screen) Buffering(bool)           {}
func (s *screen) SetCursor(vt.CursorStyle) {}
