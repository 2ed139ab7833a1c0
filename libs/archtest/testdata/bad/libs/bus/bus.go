// Package bus knows a service.
package bus

import (
	_ "github.com/nats-io/nats.go/jetstream"
	_ "golang.org/x/sys/unix"

	_ "agentyard.dev/services/auth"
)
