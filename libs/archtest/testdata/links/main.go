// Command links links a Kubernetes client by way of a package of its own.
package main

import _ "agentyard.dev/services/tcagent/plan"

func main() {}
