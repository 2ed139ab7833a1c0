package main

import (
	"os"
	"path/filepath"
	"testing"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/daemon/daemontest"
	"agentyard.dev/libs/trust/trusttest"
)

func TestMain(m *testing.M) { daemontest.Main(m, main) }

func TestProcess(t *testing.T) {
	daemontest.Command{
		Name: "sessions", Role: "sessions",
		Args: func(t *testing.T, ring *bus.Keyring) []string {
			dir := t.TempDir()
			issuer := filepath.Join(dir, "issuer")
			if err := os.WriteFile(issuer, ring.SessionIssuer().Marshal(), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"-sessions.data-dir", dir, "-sessions.issuer-file", issuer}
		},
		Prepare: func(t *testing.T, server *bus.Server, ring *bus.Keyring) {
			trusttest.Publish(t, bustest.Connect(t, server, ring, "auth"))
		},
	}.Test(t)
}
