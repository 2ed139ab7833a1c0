package terminal

import "strings"

// extract returns what a program answered: what the screen shows after the turn and did
// not before it, without the echo of the input and without the prompt that is there
// again.
func extract(before, after []string, input string) string {
	fresh := newLines(before, after)
	fresh = dropEcho(fresh, input)
	fresh = dropPrompt(before, fresh)
	return strings.Join(trimBlank(fresh), "\n")
}

// newLines aligns the two screens, the first of which may have scrolled, and returns what
// follows their common part. The last line of before is the one that was typed on, so it
// may have changed.
func newLines(before, after []string) []string {
	kept := max(0, len(before)-1)
	for shift := range kept + 1 {
		n := kept - shift
		if n <= len(after) && equal(before[shift:kept], after[:n]) && (n > 0 || shift == kept) {
			if shift > 0 && len(after) < history {
				break // it drew something else: lines only leave a history that is full
			}
			rest := after[n:]
			if len(rest) > 1 && len(before) > 0 && rest[0] == before[kept] {
				return rest[1:] // nothing was shown of the typing
			}
			return rest
		}
	}
	// A full screen that was redrawn: what is new begins at the first line that was not there.
	seen := map[string]bool{}
	for _, l := range before {
		seen[l] = true
	}
	for i, l := range after {
		if !seen[l] {
			return after[i:]
		}
	}
	return nil
}

func equal(a, b []string) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// squash removes all blanks: wrapping and indentation differ between what was typed and
// what is shown.
func squash(s string) string { return strings.Join(strings.Fields(s), "") }

// dropEcho removes the first lines if they show the input.
func dropEcho(lines []string, input string) []string {
	want := squash(input)
	if want == "" {
		return lines
	}
	most := len(input)/columns + strings.Count(input, "\n") + 4 // boxes have a border
	shown := ""
	for i, l := range lines[:min(most, len(lines))] {
		shown += squash(strings.Trim(l, "│┃|>❯ "))
		if strings.Contains(shown, want) {
			return lines[i+1:]
		}
	}
	return lines
}

// dropPrompt removes the end if it is the end of the screen before the turn: the prompt,
// and a box around the input line.
func dropPrompt(before, lines []string) []string {
	for first := true; len(lines) > 0 && len(before) > 0; first = false {
		last := lines[len(lines)-1]
		if last != before[len(before)-1] || !first && last != "" && !strings.ContainsFunc(last, boxDrawing) {
			break
		}
		lines, before = lines[:len(lines)-1], before[:len(before)-1]
	}
	return lines
}

// boxDrawing reports whether r is of the Unicode block Box Drawing.
func boxDrawing(r rune) bool { return r >= 0x2500 && r <= 0x257f }

func trimBlank(lines []string) []string {
	for len(lines) > 0 && strings.TrimSpace(lines[0]) == "" {
		lines = lines[1:]
	}
	for len(lines) > 0 && strings.TrimSpace(lines[len(lines)-1]) == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}
