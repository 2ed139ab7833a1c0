module agentyard.dev/services/standalone

go 1.26.0

require (
	agentyard.dev/libs v0.0.0
	agentyard.dev/services/auth v0.0.0
	agentyard.dev/services/gateway v0.0.0
	agentyard.dev/services/scheduler v0.0.0
	agentyard.dev/services/sessions v0.0.0
	agentyard.dev/services/tcagent v0.0.0
	github.com/coder/websocket v1.8.15
	github.com/rogpeppe/go-internal v1.16.0
	github.com/spf13/cobra v1.10.2
	go.yaml.in/yaml/v3 v3.0.6
	golang.org/x/sys v0.49.0
	golang.org/x/term v0.47.0
)

replace (
	agentyard.dev/libs => ../../libs
	agentyard.dev/services/auth => ../auth
	agentyard.dev/services/gateway => ../gateway
	agentyard.dev/services/scheduler => ../scheduler
	agentyard.dev/services/sessions => ../sessions
	agentyard.dev/services/tcagent => ../tcagent
)
