// Package charttest renders agentyard's Helm charts with Helm's own engine and checks what comes out. It is a module of its
// own, so that nothing else compiles Helm.
//
// Generated with go test ./deploy/charttest -update: each chart's values.schema.json, from the comments of its values.yaml; the
// config part of each service's values.yaml, from the service's flags; and the golden manifests in testdata.
package charttest
