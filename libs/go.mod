module agentyard.dev/libs

go 1.26.0
