package main

import (
	"testing"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
	"agentyard.dev/libs/daemon/daemontest"
	"agentyard.dev/libs/trust/trusttest"
)

func TestMain(m *testing.M) { daemontest.Main(m, main) }

func TestProcess(t *testing.T) {
	daemontest.Command{Name: "scheduler", Role: "scheduler", Prepare: func(t *testing.T, server *bus.Server, ring *bus.Keyring) {
		trusttest.Publish(t, bustest.Connect(t, server, ring, "auth"))
	}}.Test(t)
}
