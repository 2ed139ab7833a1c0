package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/authfile"
	"agentyard.dev/services/sessions/runner/agent"
)

// mcpConfig is where Claude Code is told of MCP servers, below the home: not in its arguments, which others may read.
const mcpConfig = ".agentyard/mcp.json"

// furnish puts what the session's profile gives its agent into the home. The agent may have made of the home what it likes before,
// so nothing here follows a link out of it.
func (r *runner) furnish() error {
	l := r.launch
	claude := r.kind.Protocol == agent.ProtocolClaude && len(l.MCPServers) > 0
	if len(l.Files) == 0 && len(l.CredentialFiles) == 0 && !claude {
		return nil
	}
	home, err := os.OpenRoot(r.home())
	if err != nil {
		return fmt.Errorf("open home: %w", err)
	}
	defer func() { _ = home.Close() }()
	for _, f := range l.Files {
		if err := r.place(home, f.Path, f.Data); err != nil {
			return fmt.Errorf("put a secret into the home: %w", err)
		}
	}
	if claude {
		text, err := claudeServers(l.MCPServers)
		if err == nil {
			err = r.place(home, mcpConfig, text)
		}
		if err != nil {
			return fmt.Errorf("put the MCP servers into the home: %w", err)
		}
	}
	for _, f := range l.CredentialFiles {
		k := &keptFile{path: f.Path, base: f.Version, known: f.Data}
		r.kept = append(r.kept, k)
		if f.Version == 0 {
			continue
		}
		// What is there may be a refresh that was not brought back when the session last ended.
		data, _, err := readHome(home, f.Path)
		if err == nil && !authfile.Stamp(data).IsZero() {
			data = authfile.Merge(f.Data, data)
		} else {
			data = f.Data
		}
		if err := r.place(home, f.Path, data); err != nil {
			return fmt.Errorf("put credentials into the home: %w", err)
		}
	}
	return nil
}

// agentConfig is what agents of this session are started from.
func (r *runner) agentConfig(argv []string, session string) agent.Config {
	cfg := agent.Config{
		Argv: argv, Dir: r.workspace(), Session: session, Spawn: r.spawn, Sink: r.sink, Logger: r.log, MCPServers: r.launch.MCPServers,
	}
	if len(cfg.MCPServers) > 0 {
		cfg.MCPConfig = filepath.Join(r.home(), filepath.FromSlash(mcpConfig))
	}
	return cfg
}

// claudeServers is the form in which Claude Code reads MCP servers.
func claudeServers(servers []api.MCPServer) ([]byte, error) {
	type server struct {
		Type    string            `json:"type"`
		Command string            `json:"command,omitempty"`
		Args    []string          `json:"args,omitempty"`
		Env     map[string]string `json:"env,omitempty"`
		URL     string            `json:"url,omitempty"`
		Headers map[string]string `json:"headers,omitempty"`
	}
	all := map[string]server{}
	for _, m := range servers {
		kind := m.Type
		if kind == "" {
			kind = "stdio"
		}
		all[m.Name] = server{Type: kind, Command: m.Command, Args: m.Args, Env: m.Env, URL: m.URL, Headers: m.Headers}
	}
	return json.Marshal(map[string]any{"mcpServers": all})
}

// place makes or replaces a file of the home, the agent's own and for nobody else to read.
func (r *runner) place(home *os.Root, name string, data []byte) error {
	uid, gid := r.owner()
	own := func(p string) error {
		if uid < 0 {
			return nil
		}
		return home.Lchown(p, uid, gid)
	}
	var dir string
	for _, part := range strings.Split(path.Dir(name), "/") {
		dir = path.Join(dir, part)
		if dir == "." {
			continue
		}
		err := home.Mkdir(dir, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = own(dir)
		}
		if err != nil {
			return err
		}
	}
	tmp := name + "." + api.NewID(api.KindMessage)
	f, err := home.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = own(tmp)
	}
	if err == nil {
		err = home.Rename(tmp, name)
	}
	if err != nil {
		_ = home.Remove(tmp)
	}
	return err
}

// signature tells a file from what it was.
type signature struct {
	size  int64
	mtime int64
	inode uint64
}

// readHome reads a file of the home that is the agent's to show: a regular one of one name, and not too large. A link could be to what
// only the runner may read.
func readHome(home *os.Root, name string) ([]byte, signature, error) {
	sig, err := lookHome(home, name)
	if err != nil {
		return nil, sig, err
	}
	f, err := home.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, sig, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, sig, err
	}
	if now, err := sign(info); err != nil || now != sig {
		return nil, sig, errors.Join(errChanging, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, authfile.MaxFile+1))
	if err == nil && len(data) > authfile.MaxFile {
		err = errNotKept
	}
	return data, sig, err
}

var (
	errChanging = errors.New("it is being written")
	errNotKept  = errors.New("it is no regular file of one name, or too large")
)

// lookHome returns a file's signature without reading it.
func lookHome(home *os.Root, name string) (signature, error) {
	info, err := home.Lstat(name)
	if err != nil {
		return signature{}, err
	}
	return sign(info)
}

func sign(info fs.FileInfo) (signature, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	sig := signature{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if !ok || !info.Mode().IsRegular() || st.Nlink != 1 || info.Size() > authfile.MaxFile {
		return sig, errNotKept
	}
	sig.inode = st.Ino
	return sig, nil
}
