package api

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Problems collects what is wrong with a request, so that a person sees all of it at once.
type Problems []FieldError

// Add blames the field at pointer.
func (p *Problems) Add(pointer, format string, args ...any) {
	*p = append(*p, FieldError{Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
}

// Err returns an invalid error that blames every field, or nil.
func (p Problems) Err() error {
	if len(p) == 0 {
		return nil
	}
	texts := make([]string, 0, len(p))
	for _, f := range p {
		texts = append(texts, f.Pointer+": "+f.Detail)
	}
	return &Error{Code: CodeInvalid, Detail: strings.Join(texts, "; "), Fields: p}
}

// Line blames the field at pointer if s is not one line of at most that many characters.
func (p *Problems) Line(pointer, s string, most int) {
	if utf8.RuneCountInString(s) > most || !utf8.ValidString(s) || strings.ContainsFunc(s, IsControl) {
		p.Add(pointer, "must be one line of at most %d characters", most)
	}
}

// Command blames the field command of the agent at pointer, whose kind is settled, if there is nothing to run.
func (p *Problems) Command(pointer string, a Agent) {
	if a.LacksCommand() {
		p.Add(pointer+"/command", "is required: the kind %q has no command of its own", a.Kind)
	}
}

// IsControl reports whether r is a control character of ASCII, which no line of text holds.
func IsControl(r rune) bool { return r < ' ' || r == 0x7f }

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// PointerToken escapes one token of a JSON pointer (RFC 6901).
func PointerToken(s string) string { return pointerEscapes.Replace(s) }
