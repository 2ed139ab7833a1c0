// This module holds no code: its requirements are the operators whose definitions the charts' objects are tested against (cluster_test.go). "go mod tidy" would empty it.
module agentyard.dev/deploy/charttest/operators

go 1.26.0

require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.6.0
)
