package sessions

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"agentyard.dev/libs/api"
)

// Bounds of what a request may carry. They keep a session's ledger entry within some tens of kilobytes.
const (
	maxLabels     = 32
	maxLabelKey   = 63
	maxLabelValue = 255
	maxTitle      = 200
	maxEnv        = 128
	maxEnvBytes   = 32 << 10
	maxArgs       = 64
	maxArgBytes   = 4 << 10
	maxPrompt     = 1 << 20
	maxKey        = 255 // of an idempotency key
	maxDuration   = 366 * 24 * time.Hour
	// reservedLabels is the prefix of labels that only agentyard itself sets.
	reservedLabels = "agentyard.dev/"
)

// problems are those of a request, with the checks of what sessions and profiles hold.
type problems struct{ api.Problems }

// labels checks labels as a request gives them.
func (p *problems) labels(pointer string, labels map[string]string) {
	if len(labels) > maxLabels {
		p.Add(pointer, "has %d labels; at most %d are allowed", len(labels), maxLabels)
		return
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		at := pointer + "/" + escapePointer(k)
		if !validLabelKey(k) {
			p.Add(at, "a label's key is 1 to %d of letters, digits, '-', '_', '.' and '/'", maxLabelKey)
		} else if strings.HasPrefix(k, reservedLabels) {
			p.Add(at, "keys that begin with %s are reserved", reservedLabels)
		}
		if v := labels[k]; len(v) > maxLabelValue || !utf8.ValidString(v) || strings.ContainsFunc(v, api.IsControl) {
			p.Add(at, "a label's value is one line of at most %d bytes", maxLabelValue)
		}
	}
}

func validLabelKey(k string) bool {
	if k == "" || len(k) > maxLabelKey {
		return false
	}
	for _, c := range []byte(k) {
		if !alphanumeric(c) && !strings.ContainsRune("-_./", rune(c)) {
			return false
		}
	}
	return alphanumeric(k[0]) && alphanumeric(k[len(k)-1])
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// env checks environment variables for the agent. The loader's variables would let one program's setting
// run code in another, and AGENTYARD_* are the system's own.
func (p *problems) env(pointer string, env map[string]string) {
	if len(env) > maxEnv {
		p.Add(pointer, "has %d variables; at most %d are allowed", len(env), maxEnv)
		return
	}
	size := 0
	for _, k := range slices.Sorted(maps.Keys(env)) {
		at := pointer + "/" + escapePointer(k)
		size += len(k) + len(env[k])
		switch {
		case !validEnvName(k):
			p.Add(at, "a variable's name is letters, digits and '_', not beginning with a digit")
		case reservedEnv(k):
			p.Add(at, "this variable is reserved")
		case strings.ContainsRune(env[k], 0) || !utf8.ValidString(env[k]):
			p.Add(at, "the value is not text")
		}
	}
	if size > maxEnvBytes {
		p.Add(pointer, "is %d bytes in all; at most %d are allowed", size, maxEnvBytes)
	}
}

func validEnvName(k string) bool {
	if k == "" || len(k) > 128 || k[0] >= '0' && k[0] <= '9' {
		return false
	}
	for _, c := range []byte(k) {
		if !alphanumeric(c) && c != '_' {
			return false
		}
	}
	return true
}

func reservedEnv(k string) bool {
	k = strings.ToUpper(k)
	return strings.HasPrefix(k, "LD_") || strings.HasPrefix(k, "DYLD_") || strings.HasPrefix(k, "AGENTYARD_") || strings.HasPrefix(k, "AGENTAPI_")
}

// duration checks a ttl or an idle timeout; zero means the default.
func (p *problems) duration(pointer string, d api.Duration) {
	if d < 0 || d.D() > maxDuration {
		p.Add(pointer, "must be between 0s and %s", maxDuration)
	} else if d != 0 && d.D() < time.Second {
		p.Add(pointer, "must be at least 1s")
	}
}

// agent checks the choice of an agent. Kind may be empty, for a default.
func (p *problems) agent(pointer string, a api.Agent, kinds func(string) bool) {
	if a.Kind != "" && !kinds(a.Kind) {
		p.Add(pointer+"/kind", "%q is no kind of agent that this yard knows", clip(a.Kind, 40))
	}
	for field, words := range map[string][]string{"/command": a.Command, "/args": a.Args} {
		if len(words) > maxArgs {
			p.Add(pointer+field, "has %d words; at most %d are allowed", len(words), maxArgs)
			continue
		}
		for i, w := range words {
			if len(w) > maxArgBytes || strings.ContainsRune(w, 0) || !utf8.ValidString(w) || (i == 0 && field == "/command" && w == "") {
				p.Add(pointer+field+"/"+strconv.Itoa(i), "must be text of at most %d bytes", maxArgBytes)
			}
		}
	}
}

func (p *problems) resources(pointer string, r api.Resources) {
	if r.CPUs < 0 || r.CPUs > 1024 {
		p.Add(pointer+"/cpus", "must be between 0 and 1024")
	}
	if r.MemoryBytes < 0 || r.MemoryBytes > 0 && r.MemoryBytes < 16<<20 {
		p.Add(pointer+"/memory_bytes", "must be 0 or at least 16 MiB")
	}
	if r.Processes < 0 || r.Processes > 0 && r.Processes < 16 {
		p.Add(pointer+"/processes", "must be 0 or at least 16")
	}
}

func (p *problems) repository(ctx context.Context, pointer string, r *api.Repository, check func(context.Context, string) error) {
	if r == nil {
		return
	}
	if r.URL == "" {
		p.Add(pointer+"/url", "is required")
	} else if err := check(ctx, r.URL); err != nil {
		p.Add(pointer+"/url", "%s", detailOf(err))
	}
	p.ref(pointer+"/ref", r.Ref)
	if r.Depth < -1 {
		p.Add(pointer+"/depth", "must be -1 (all history), 0 or above")
	}
}

func (p *problems) ref(pointer, ref string) {
	if len(ref) > 255 || strings.HasPrefix(ref, "-") || strings.ContainsFunc(ref, func(c rune) bool { return api.IsControl(c) || c == ' ' }) {
		p.Add(pointer, "is not the name of a branch, a tag or a commit")
	}
}

// detailOf returns what an error says to a person, without the code.
func detailOf(err error) string {
	var e *api.Error
	if asError(err, &e) {
		if len(e.Fields) > 0 {
			return e.Fields[0].Detail
		}
		return e.Detail
	}
	return err.Error()
}

// escapePointer escapes one token of a JSON pointer, and bounds it.
func escapePointer(s string) string {
	return api.PointerToken(clip(s, maxLabelKey+1))
}

// clip shortens s to at most n bytes at the boundary of a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
