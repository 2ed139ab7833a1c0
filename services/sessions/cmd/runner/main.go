// Command runner is the program inside a session: it reads a launch from standard input
// and drives the session's agent. As "runner demo-agent" it is the demo agent.
package main

import (
	"os"

	"agentyard.dev/services/sessions/runner"
	"agentyard.dev/services/sessions/sandbox"
)

func main() {
	sandbox.MaybeInit()
	os.Exit(runner.Main(os.Args[1:], os.Stdin, os.Stderr))
}
