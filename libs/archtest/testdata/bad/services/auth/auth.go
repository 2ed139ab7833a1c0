// Package auth knows another service, and NATS.
package auth

import (
	_ "github.com/nats-io/nats.go"
	_ "github.com/nats-iota/other"
	_ "go.opentelemetry.io/otel/sdk/trace"
	_ "go.opentelemetry.io/otel/trace"

	_ "agentyard.dev/libs/bus"
	_ "agentyard.dev/services/auth/store"
	_ "agentyard.dev/services/gateway"
)
