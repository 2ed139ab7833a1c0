module agentyard.dev/services/tcagent

go 1.26.0

require agentyard.dev/libs v0.0.0

replace agentyard.dev/libs => ../../libs
