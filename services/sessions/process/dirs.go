package process

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
)

// trashPrefix begins the name of a directory that waits to be removed.
const trashPrefix = ".trash-"

func isTrash(name string) bool { return strings.HasPrefix(name, trashPrefix) }

func (r *Runtime) sessionsDir() string       { return filepath.Join(r.cfg.DataDir, "sessions") }
func (r *Runtime) dir(session string) string { return filepath.Join(r.sessionsDir(), session) }
func (r *Runtime) home() string              { h, _ := os.UserHomeDir(); return h }

func subdirs(dir string) []string {
	return []string{filepath.Join(dir, "workspace"), filepath.Join(dir, "home"), filepath.Join(dir, "tmp")}
}

// socketDir is short, for a socket's path may have some hundred bytes only.
func (r *Runtime) socketDir() string {
	if r.cfg.SocketDir != "" {
		return r.cfg.SocketDir
	}
	sum := sha256.Sum256([]byte(r.cfg.DataDir))
	tag := hex.EncodeToString(sum[:5])
	if base := os.Getenv("XDG_RUNTIME_DIR"); base != "" && len(base) < 40 {
		return filepath.Join(base, "agentyard-"+tag)
	}
	return filepath.Join("/tmp", fmt.Sprintf("agentyard-%d-%s", os.Geteuid(), tag))
}

// prepareDirs makes the directories that all sessions share.
func (r *Runtime) prepareDirs() error {
	if r.cfg.DataDir == "" {
		return errors.New("no data directory")
	}
	if !filepath.IsAbs(r.cfg.DataDir) {
		return fmt.Errorf("the working directory, below which the data directory %q is, cannot be found", r.cfg.DataDir)
	}
	if err := os.MkdirAll(r.sessionsDir(), 0o700); err != nil {
		return err
	}
	return ownDir(r.socketDir())
}

// ownDir makes dir, or checks that it is a directory that nobody else can have prepared: in /tmp anybody may.
func ownDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !fi.IsDir() || !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to somebody else; remove it or choose another socket directory", dir)
	}
	return os.Chmod(dir, 0o700)
}

// makeSession makes a session's directory; with a uid, the parts that the agent works in are that user's.
func (r *Runtime) makeSession(session string, uid, gid int) error {
	dir := r.dir(session)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make session directory: %w", err)
	}
	for _, d := range subdirs(dir) {
		err := os.Mkdir(d, 0o700)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err == nil && uid > 0 {
			err = os.Lchown(d, uid, gid)
		}
		if err != nil {
			return fmt.Errorf("make session directory: %w", err)
		}
	}
	return nil
}

// discard removes a session's directory: at once out of the way, then, in the background, from the disk.
func (r *Runtime) discard(session string) error {
	trash := filepath.Join(r.sessionsDir(), trashPrefix+session+"-"+api.NewID(api.KindSession)[1:9])
	err := os.Rename(r.dir(session), trash)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove session directory: %w", err)
	}
	if err == nil {
		r.removeLater(trash)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for uid, s := range r.uids {
		if s == session {
			delete(r.uids, uid)
		}
	}
	return nil
}

// removeLater removes dir in the background. What a crash leaves is removed at the next start.
func (r *Runtime) removeLater(dir string) {
	r.wg.Go(func() {
		if err := launch.RemoveDir(dir); err != nil {
			r.log.Warn("remove session directory", "err", err)
		}
	})
}

// takeUID returns the session's user id, a free one if it has none.
func (r *Runtime) takeUID(session string) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for uid, s := range r.uids {
		if s == session {
			return uid, nil
		}
	}
	for uid := r.cfg.UIDBase; uid < r.cfg.UIDBase+r.cfg.UIDCount; uid++ {
		if _, taken := r.uids[uid]; !taken && uid > 0 {
			r.uids[uid] = session
			return uid, nil
		}
	}
	return 0, api.Errorf(api.CodeExhausted, "all %d user ids for sessions are in use", r.cfg.UIDCount)
}

// reclaimUID notes the user id that a session found on disk has: that of its home.
func (r *Runtime) reclaimUID(session string) {
	fi, err := os.Lstat(filepath.Join(r.dir(session), "home"))
	if err != nil {
		return
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) >= r.cfg.UIDBase && int(st.Uid) < r.cfg.UIDBase+r.cfg.UIDCount {
		r.uids[int(st.Uid)] = session
	}
}

// hidden lists what no agent may see: the service's own directories and the home of the service's user, where that user's
// keys and tokens are. For an agent of another user id it is also what that one could not pass on the way to its workspace.
func (r *Runtime) hidden() []string {
	hide := append([]string{r.cfg.DataDir, r.socketDir()}, r.cfg.Hide...)
	if h := r.home(); h != "" && h != "/" {
		hide = append(hide, h)
	}
	if os.Geteuid() == 0 {
		if p := impassable(r.cfg.DataDir); p != "" {
			hide = append(hide, p)
		}
	}
	return slices.DeleteFunc(hide, func(d string) bool { return d == "" || d == "/" })
}

// impassable returns the outermost directory on the way to path that only its owner may pass.
func impassable(path string) string {
	found := ""
	for p := path; p != "/" && p != "."; p = filepath.Dir(p) {
		if fi, err := os.Stat(p); err == nil && fi.Mode()&0o001 == 0 {
			found = p
		}
	}
	return found
}

// shown lists the programs in hidden places that agents may use: the directories of the PATH below the home of the service's user,
// what their links lead to, and the libraries beside them (of Node.js, of Python).
func (r *Runtime) shown() []string {
	home := r.home()
	if home == "" || home == "/" {
		return nil
	}
	below := func(p string) bool {
		return strings.HasPrefix(p, home+"/") && !strings.HasPrefix(r.cfg.DataDir+"/", p+"/") && !strings.HasPrefix(p+"/", r.cfg.DataDir+"/")
	}
	var show []string
	add := func(p string) {
		if below(p) && !slices.Contains(show, p) {
			show = append(show, p)
		}
	}
	for _, dir := range filepath.SplitList(r.path()) {
		if dir = filepath.Clean(dir); !below(dir) {
			continue
		}
		add(dir)
		if filepath.Base(dir) == "bin" {
			add(filepath.Join(filepath.Dir(dir), "lib"))
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries[:min(len(entries), maxLinks)] {
			if e.Type()&fs.ModeSymlink == 0 {
				continue
			}
			if target, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name())); err == nil {
				add(filepath.Dir(target))
			}
		}
	}
	return show
}

// toolsFor is how long an answer of shown stands: reading the directories takes longer than starting a session may.
const toolsFor = time.Minute

func (r *Runtime) shownLately() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.toolsAt.IsZero() || now.Sub(r.toolsAt) > toolsFor {
		r.tools, r.toolsAt = r.shown(), now
	}
	return r.tools
}

// maxLinks bounds how many entries of one directory of the PATH are looked at.
const maxLinks = 1000
