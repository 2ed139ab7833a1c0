module agentyard.dev/bench

go 1.26.0

require agentyard.dev/libs v0.0.0

replace agentyard.dev/libs => ../libs
