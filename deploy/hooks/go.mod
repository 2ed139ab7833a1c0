module agentyard.dev/deploy/hooks

go 1.26.0

require (
	agentyard.dev/deploy/cluster v0.0.0
	agentyard.dev/libs v0.0.0
	github.com/nats-io/nats-server/v2 v2.15.2
)

require (
	github.com/antithesishq/antithesis-sdk-go v0.8.0-default-no-op // indirect
	github.com/go-json-experiment/json v1.27.2 // indirect
	github.com/google/btree v1.1.3 // indirect
	github.com/google/go-tpm v0.9.8 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/minio/highwayhash v1.0.4 // indirect
	github.com/nats-io/jwt/v2 v2.8.2 // indirect
	github.com/nats-io/nats.go v1.55.0 // indirect
	github.com/nats-io/nkeys v0.4.17 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/time v0.16.0 // indirect
)

replace agentyard.dev/deploy/cluster => ../cluster

replace agentyard.dev/libs => ../../libs

replace google.golang.org/genproto v0.0.0-20210917145530-b395a37504d4 => google.golang.org/genproto v0.0.0-20261019180522-ce908d29299b
