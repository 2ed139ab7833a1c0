package cli

import (
	"strings"
	"unicode"
)

// clean removes from text what could drive a terminal: agents, and through them the
// repositories that they read, must not move the cursor or rewrite what a person has seen.
// Newlines and tabs stay.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return r
		case unicode.IsControl(r), bidi(r):
			return -1
		}
		return r
	}, text)
}

// bidi reports whether r reorders the text around it (Unicode UAX #9), which can make a command read
// as another.
func bidi(r rune) bool {
	return r >= 0x202A && r <= 0x202E || r >= 0x2066 && r <= 0x2069
}
