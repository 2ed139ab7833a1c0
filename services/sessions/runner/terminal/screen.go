package terminal

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/gdamore/tcell/v3/vt"
)

// The size of the screen: what the agentapi contract's users expect, high enough for a
// long answer to be on it as a whole.
const (
	columns = 80
	rows    = 1000
)

const maxCell = 64 // bytes of one character with its combining marks

// wide marks the second cell of a wide character.
const wide = "\x00"

// screen is what a person would see of the program's output.
type screen struct {
	em vt.Emulator

	mu      sync.Mutex
	cells   [rows * columns]string // "" is a blank
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

// lines returns the screen's text without blanks at the ends of lines and of the screen.
func (s *screen) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]string, 0, 64)
	last := 0
	for y := range rows {
		row := s.cells[y*columns : (y+1)*columns]
		var b strings.Builder
		for _, c := range row {
			switch c {
			case "":
				b.WriteByte(' ')
			case wide:
			default:
				b.WriteString(c)
			}
		}
		line := strings.TrimRight(b.String(), " ")
		out = append(out, line)
		if line != "" {
			last = len(out)
		}
	}
	return out[:last]
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
