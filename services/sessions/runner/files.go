package runner

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/rpc"
)

const (
	maxFile    = 64 << 20 // of one PUT, and of one GET without a range
	maxEntries = 10_000   // of one directory
)

// fileInfo is one entry of a directory.
type fileInfo struct {
	Path    string    `json:"path"` // below the workspace
	Type    string    `json:"type"` // file, directory, symlink, other
	Size    int64     `json:"size"`
	ModTime time.Time `json:"mod_time"`
}

type directory struct {
	Items     []fileInfo `json:"items"`
	Truncated bool       `json:"truncated,omitempty"`
}

func describe(name string, info fs.FileInfo) fileInfo {
	kind := "other"
	switch mode := info.Mode(); {
	case mode.IsRegular():
		kind = "file"
	case mode.IsDir():
		kind = "directory"
	case mode&fs.ModeSymlink != 0:
		kind = "symlink"
	}
	return fileInfo{Path: name, Type: kind, Size: info.Size(), ModTime: info.ModTime().UTC()}
}

// workspacePath returns the path of the request below the workspace.
func workspacePath(req *http.Request) (string, error) {
	name := req.URL.Query().Get("path")
	if name == "" {
		name = "."
	}
	if path.IsAbs(name) || strings.ContainsAny(name, "\x00\\") {
		return "", api.Invalid("/path", "must be a relative path in the workspace")
	}
	name = path.Clean(name)
	if !fs.ValidPath(name) {
		return "", api.Invalid("/path", "leads out of the workspace")
	}
	return name, nil
}

// fileError classifies an error of the workspace's files for the caller.
func fileError(name string, err error) error {
	var coded *api.Error
	switch {
	case errors.As(err, &coded):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return api.Errorf(api.CodeNotFound, "there is no %s in the workspace", name)
	case errors.Is(err, fs.ErrPermission):
		return api.Errorf(api.CodeDenied, "%s may not be accessed", name)
	case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrExist), errors.Is(err, syscall.ENOTEMPTY):
		return api.Errorf(api.CodeConflict, "%s is not of the kind that this needs", name)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return api.Errorf(api.CodeExhausted, "the disk is full")
	case errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ELOOP), strings.Contains(err.Error(), "escapes"):
		return api.Invalid("/path", "leads out of the workspace")
	}
	return fmt.Errorf("workspace: %w", err)
}

// getFile answers with a file (with ranges) or a directory's entries.
func (r *runner) getFile(w http.ResponseWriter, req *http.Request) {
	name, err := workspacePath(req)
	if err == nil {
		err = r.sendFile(w, req, name)
	}
	if err != nil {
		rpc.WriteError(w, req, fileError(name, err))
	}
}

func (r *runner) sendFile(w http.ResponseWriter, req *http.Request, name string) error {
	root, err := os.OpenRoot(r.workspace())
	if err != nil {
		return err
	}
	defer root.Close()
	// O_NONBLOCK: the agent may have put a FIFO there, whose opening would wait.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.IsDir():
		list, err := listDir(name, f)
		if err == nil {
			rpc.WriteJSON(w, req, http.StatusOK, list)
		}
		return err
	case !info.Mode().IsRegular():
		return api.Invalid("/path", "is neither a file nor a directory")
	case info.Size() > maxFile && req.Header.Get("Range") == "":
		return api.Errorf(api.CodeInvalid, "%s has %d bytes; ask for a range of at most %d", name, info.Size(), maxFile)
	}
	// It is the agent's content: no browser may take it for a page of ours.
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("ETag", fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size()))
	http.ServeContent(w, req, "", info.ModTime(), f)
	return nil
}

func listDir(name string, f *os.File) (directory, error) {
	entries, err := f.ReadDir(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return directory{}, err
	}
	list := directory{Items: make([]fileInfo, 0, len(entries))}
	if len(entries) > maxEntries {
		entries, list.Truncated = entries[:maxEntries], true
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // gone since
		}
		list.Items = append(list.Items, describe(path.Join(name, e.Name()), info))
	}
	slices.SortFunc(list.Items, func(a, b fileInfo) int { return cmp.Compare(a.Path, b.Path) })
	return list, nil
}

// putFile writes a file: all of it or nothing.
func (r *runner) putFile(w http.ResponseWriter, req *http.Request) {
	name, err := workspacePath(req)
	if err == nil && name == "." {
		err = api.Invalid("/path", "is required")
	}
	var info fileInfo
	if err == nil {
		info, err = r.saveFile(req, name, http.MaxBytesReader(w, req.Body, maxFile))
	}
	if err != nil {
		rpc.WriteError(w, req, fileError(name, err))
		return
	}
	rpc.WriteJSON(w, req, http.StatusOK, info)
}

func (r *runner) saveFile(req *http.Request, name string, body io.Reader) (fileInfo, error) {
	if req.ContentLength > maxFile {
		return fileInfo{}, readError(&http.MaxBytesError{Limit: maxFile})
	}
	root, err := os.OpenRoot(r.workspace())
	if err != nil {
		return fileInfo{}, err
	}
	defer root.Close()
	return r.writeFile(root, name, body)
}

// writeFile writes body to name in root through a file beside it that then takes its
// place, and makes the folders above it. All that is new belongs to the agent.
func (r *runner) writeFile(root *os.Root, name string, body io.Reader) (fileInfo, error) {
	dir := path.Dir(name)
	if err := r.makeParents(root, dir); err != nil {
		return fileInfo{}, err
	}
	mode := fs.FileMode(0o644)
	if old, err := root.Lstat(name); err == nil {
		if old.IsDir() {
			return fileInfo{}, syscall.EISDIR
		}
		if old.Mode().IsRegular() {
			mode = old.Mode().Perm()
		}
	}
	temp := path.Join(dir, ".agentyard-"+api.NewID('f'))
	f, err := root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fileInfo{}, err
	}
	err = r.fill(f, body, mode)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = root.Rename(temp, name)
	}
	if err != nil {
		_ = root.Remove(temp)
		return fileInfo{}, err
	}
	info, err := root.Lstat(name)
	if err != nil {
		return fileInfo{}, err
	}
	return describe(name, info), nil
}

func (r *runner) fill(f *os.File, body io.Reader, mode fs.FileMode) error {
	if _, err := io.Copy(f, body); err != nil {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			return err // ours
		}
		return readError(err)
	}
	if uid, gid := r.owner(); uid >= 0 {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	return f.Chmod(mode) // whatever the umask
}

// makeParents makes dir and those above it that are missing.
func (r *runner) makeParents(root *os.Root, dir string) error {
	uid, gid := r.owner()
	made := ""
	for part := range strings.SplitSeq(dir, "/") {
		made = path.Join(made, part)
		if made == "." || made == "" {
			continue
		}
		err := root.Mkdir(made, 0o755)
		switch {
		case errors.Is(err, fs.ErrExist):
			continue
		case err != nil:
			return err
		case uid >= 0:
			if err := root.Lchown(made, uid, gid); err != nil {
				return err
			}
		}
	}
	return nil
}
