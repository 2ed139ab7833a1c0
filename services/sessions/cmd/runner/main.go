// Command runner is the program inside a session: it reads a launch from standard input
// and drives the session's agent. As "runner demo-agent" it is the demo agent, as "runner bind" the runner of a pod, which asks
// for its launch, and "runner install PATH" copies it into a volume for images that do not have it.
package main

import (
	"os"

	"agentyard.dev/services/sessions/runner"
	"agentyard.dev/services/sessions/sandbox"
)

func main() {
	sandbox.MaybeInit()
	args := os.Args[1:]
	switch {
	case len(args) == 1 && args[0] == runner.BindVerb:
		os.Exit(runner.MainPod(os.Stderr))
	case len(args) == 2 && args[0] == runner.InstallVerb:
		os.Exit(runner.Install(args[1], os.Stderr))
	}
	os.Exit(runner.Main(args, os.Stdin, os.Stderr))
}
