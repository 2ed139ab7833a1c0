package agent

import (
	"context"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Protocol names the adapter that drives a kind of agent.
type Protocol string

// The protocols.
const (
	ProtocolACP      Protocol = "acp"
	ProtocolClaude   Protocol = "claude"
	ProtocolTerminal Protocol = "terminal"
)

// Self in a kind's argv stands for this program's own executable.
const Self = "@self"

// Kind is one row of the table of agents: how it is started, driven, found and got.
type Kind struct {
	Name     string
	Title    string
	Protocol Protocol
	Argv     []string // default command; empty: the session must give one
	Install  string   // how a person gets it; empty: it is built in
	Version  []string // command that prints its version; empty: it has none
}

// Kinds lists the built-in kinds in the order in which a person would read them.
// Terminal kinds are driven on their screen.
func Kinds() []Kind {
	return []Kind{
		{Name: "demo", Title: "Demo", Protocol: ProtocolACP, Argv: []string{Self, "demo-agent"}},
		{Name: "command", Title: "Commands: each message is run by sh", Protocol: ProtocolACP, Argv: []string{Self, "demo-agent", "command"}},
		{Name: "claude", Title: "Claude Code", Protocol: ProtocolClaude, Argv: []string{"claude"}, Install: "npm install -g @anthropic-ai/claude-code", Version: []string{"claude", "--version"}},
		{Name: "codex", Title: "Codex", Protocol: ProtocolACP, Argv: []string{"codex-acp"}, Install: "npm install -g @zed-industries/codex-acp"},
		{Name: "opencode", Title: "opencode", Protocol: ProtocolACP, Argv: []string{"opencode", "acp"}, Install: "npm install -g opencode-ai", Version: []string{"opencode", "--version"}},
		{Name: "gemini", Title: "Gemini CLI", Protocol: ProtocolACP, Argv: []string{"gemini", "--acp"}, Install: "npm install -g @google/gemini-cli", Version: []string{"gemini", "--version"}},
		{Name: "goose", Title: "goose", Protocol: ProtocolACP, Argv: []string{"goose", "acp"}, Install: "https://github.com/block/goose (one binary)", Version: []string{"goose", "--version"}},
		{Name: "aider", Title: "aider", Protocol: ProtocolTerminal, Argv: []string{"aider", "--no-pretty"}, Install: "pip install aider-chat", Version: []string{"aider", "--version"}},
		{Name: "bash", Title: "Bash", Protocol: ProtocolTerminal, Argv: []string{"bash", "--noprofile", "--norc"}, Version: []string{"bash", "--version"}},
		{Name: "acp", Title: "Any program that speaks ACP", Protocol: ProtocolACP},
		{Name: "custom", Title: "Any program, in a terminal", Protocol: ProtocolTerminal},
	}
}

// BuiltIn reports whether the kind is this program itself, which takes each message word for word.
func (k Kind) BuiltIn() bool { return len(k.Argv) > 0 && k.Argv[0] == Self }

// LookupKind returns the kind called name.
func LookupKind(name string) (Kind, bool) {
	kinds := Kinds()
	i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, false
	}
	return kinds[i], true
}

// Command returns the kind's argv with command in its place, if there is one, and
// args appended; self replaces Self.
func (k Kind) Command(self string, command, args []string) []string {
	argv := slices.Clone(k.Argv)
	if len(command) > 0 {
		argv = slices.Clone(command)
	} else if len(argv) > 0 && argv[0] == Self {
		argv[0] = self
	}
	return append(argv, args...)
}

const probeTimeout = 10 * time.Second // some agents start a JavaScript engine to say their version

var versionText = regexp.MustCompile(`\d+(\.\d+)+[-+.0-9A-Za-z]*`)

// Probe finds the kind on this machine: where its program is and which version it
// says it is. An empty path says that it is not installed; a built-in kind is at self.
func (k Kind) Probe(ctx context.Context, self string) (path, version string) {
	if len(k.Argv) == 0 {
		return "", ""
	}
	if k.Argv[0] == Self {
		return self, ""
	}
	path, err := exec.LookPath(k.Argv[0])
	if err != nil {
		return "", ""
	}
	if len(k.Version) == 0 {
		return path, ""
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	out, _ := exec.CommandContext(ctx, path, k.Version[1:]...).Output()
	first, _, _ := strings.Cut(string(out), "\n")
	return path, versionText.FindString(first)
}
