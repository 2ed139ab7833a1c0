// Command agentyard is the whole of agentyard in one binary:
//
//	 agentyard up ─▶ gateway · auth · sessions · scheduler · tcagent ─▶ embedded bus
//	                               │ starts this binary again as
//	                               ├─▶ agentyard runner      one for each session
//	                               ├─▶ agentyard sandbox     process 1 of the agent's namespaces
//	                               └─▶ agentyard demo-agent  the agent that needs no account
//	agentyard session, profile, keys, … ─HTTP─▶ a yard, here or elsewhere
package main

import (
	"context"
	"os"

	"agentyard.dev/services/sessions/demo"
	"agentyard.dev/services/sessions/runner"
	"agentyard.dev/services/sessions/sandbox"
	"agentyard.dev/services/standalone/cli"
)

func main() {
	sandbox.MaybeInit()
	// These are started by agentyard itself, some for every session, and need none of the rest.
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "runner":
			os.Exit(runner.Main(os.Args[2:], os.Stdin, os.Stderr))
		case runner.DemoVerb:
			os.Exit(demo.Run())
		}
	}
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Env{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv}))
}
