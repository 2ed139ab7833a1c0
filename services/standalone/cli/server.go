package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"agentyard.dev/services/standalone"
	"agentyard.dev/services/standalone/client"
)

// credential is which server to ask, and with which key.
type credential struct {
	URL string `json:"url"`
	Key string `json:"key"`
}

// client returns a client of the server that flags, environment, stored credential or
// local yard name, in this order.
func (a *app) client() (*client.Client, error) {
	c, err := a.credential()
	if err != nil {
		return nil, err
	}
	return client.New(c.URL, c.Key)
}

func (a *app) credential() (credential, error) {
	stored, err := a.stored()
	if err != nil {
		return credential{}, err
	}
	local := a.local()
	want := credential{URL: or(a.server, a.Getenv("AGENTYARD_URL")), Key: a.Getenv("AGENTYARD_KEY")}
	want.URL = strings.TrimRight(want.URL, "/")
	for _, known := range []credential{stored, local} {
		if want.URL == "" {
			want.URL = known.URL
		}
		// A key belongs to its server and is shown to no other.
		if want.Key == "" && want.URL == known.URL {
			want.Key = known.Key
		}
	}
	if want.URL == "" {
		return want, errors.New("no server is known: start one with 'agentyard up', or name one with 'agentyard login URL' or AGENTYARD_URL")
	}
	return want, nil
}

// local is the yard that 'agentyard up' runs, or last ran, in the data directory.
func (a *app) local() credential {
	dir, err := a.dataDir()
	if err != nil {
		return credential{}
	}
	url, err := os.ReadFile(filepath.Join(dir, standalone.URLFile))
	if err != nil {
		return credential{}
	}
	key, _ := os.ReadFile(filepath.Join(dir, standalone.AdminKeyFile)) // another user's: it takes a login
	return credential{URL: strings.TrimSpace(string(url)), Key: strings.TrimSpace(string(key))}
}

// dataDir is where 'agentyard up' keeps its data unless --data says otherwise.
func (a *app) dataDir() (string, error) {
	if dir := a.Getenv("AGENTAPI_DATA"); dir != "" {
		return dir, nil
	}
	return standalone.DefaultData(a.Getenv)
}

// configFile is where login stores the credential (XDG Base Directory Specification).
func (a *app) configFile() (string, error) {
	if dir := a.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "agentyard", "config.json"), nil
	}
	home := a.Getenv("HOME")
	if home == "" {
		return "", errors.New("neither XDG_CONFIG_HOME nor HOME is set")
	}
	return filepath.Join(home, ".config", "agentyard", "config.json"), nil
}

func (a *app) stored() (credential, error) {
	file, noHome := a.configFile()
	if noHome != nil {
		return credential{}, nil //nolint:nilerr // then nothing is stored
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return credential{}, nil
	}
	if err != nil {
		return credential{}, fmt.Errorf("read the stored credential: %w", err)
	}
	var c credential
	if err := json.Unmarshal(data, &c); err != nil {
		return credential{}, fmt.Errorf("%s: %w; log in again to replace it", file, err)
	}
	return c, nil
}

// store writes the credential so that only its owner can read it, whole or not at all.
func (a *app) store(c credential) (string, error) {
	file, err := a.configFile()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", err
	}
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return "", err
	}
	return file, standalone.WriteFile(file, append(data, '\n'), 0o600)
}
