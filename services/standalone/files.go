package standalone

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The files of a data directory that others read.
const (
	AdminKeyFile = "admin.key" // the first admin's API key
	URLFile      = "http.url"  // the address of the HTTP API
	BusURLFile   = "bus.url"   // the address of the bus, the same after a restart
	KeysDir      = "keys"      // the bus's keyring
)

// DefaultData returns the data directory when nobody names one (XDG Base Directory
// Specification).
func DefaultData(getenv func(string) string) (string, error) {
	if dir := getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "agentyard"), nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", errors.New("neither XDG_DATA_HOME nor HOME is set; name a directory with --data")
	}
	return filepath.Join(home, ".local", "share", "agentyard"), nil
}

// WriteFile writes a file whole or not at all, also when the machine stops meanwhile.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	return CopyFile(path, bytes.NewReader(data), mode)
}

// CopyFile is WriteFile from a reader.
func CopyFile(path string, from io.Reader, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if _, err = io.Copy(f, from); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
