package main

import (
	"testing"

	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/daemon/daemontest"
)

func TestMain(m *testing.M) { daemontest.Main(m, main) }

func TestProcess(t *testing.T) {
	daemontest.Command{Name: "tcagent", Role: bus.NodeService}.Test(t)
}
