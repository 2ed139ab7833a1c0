// Package e2e tests agentyard whole: its images, its charts and its sessions on a real Kubernetes of two nodes, through the
// gateway, under kills, an upgrade and a look from inside a session.
//
// Its tests have the build tag "cluster": make test-cluster runs them. The directories are what the test's cluster lacks: dns
// is its name service, enforce applies its network policies.
package e2e
