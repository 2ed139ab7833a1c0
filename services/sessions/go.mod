module agentyard.dev/services/sessions

go 1.26.0

require agentyard.dev/libs v0.0.0

require golang.org/x/sys v0.49.0 // indirect

replace agentyard.dev/libs => ../../libs
