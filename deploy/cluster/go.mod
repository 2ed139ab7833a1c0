module agentyard.dev/deploy/cluster

go 1.26.0
