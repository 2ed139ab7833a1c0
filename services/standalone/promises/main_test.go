// Package promises proves the promises of docs/architecture.md on whole yards of real
// processes: nothing is lost, no agent finds a secret, abuse stays bounded, hostile input
// is refused, and real coding agents do real work.
package promises

import (
	"testing"

	"agentyard.dev/services/standalone/yardtest"
)

func TestMain(m *testing.M) { yardtest.Main(m) }
