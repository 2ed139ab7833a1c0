package launch

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// RemoveDir is os.RemoveAll for a session's directory or one in it, directories without write permission included (a Go module cache has such). Nothing of the
// session may run any more.
func RemoveDir(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(p, 0o700) //nolint:gosec // a directory is entered
		}
		return nil
	})
	return os.RemoveAll(dir)
}
