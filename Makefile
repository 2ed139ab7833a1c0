# agentyard. `make help` lists the targets; Go is all that most of them need.
SHELL := bash
MODULES := $(shell sed -n 's/^\t\.\///p' go.work)
PACKAGES := $(addprefix ./,$(addsuffix /...,$(MODULES)))
# Packages whose tests have the build tag "cluster": of the first all, of the others those that have it, for the rest of them is in "make test".
CLUSTER_PACKAGES := ./services/sessions/kube/clustertest ./deploy/e2e
CONTROL_PACKAGES := ./deploy/charttest ./deploy/hooks
CONTROL_TESTS = $(shell grep -lE '^//go:build cluster' $(addsuffix /*_test.go,$(CONTROL_PACKAGES)) | xargs sed -nE 's/^func (Test[A-Za-z0-9_]+).*/\1/p' | grep -v TestMain | paste -sd'|')
CLUSTERFLAGS ?=
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
RUN ?= .
TESTFLAGS ?= -timeout 20m

.DEFAULT_GOAL := help
.PHONY: help run test test-guest test-soak test-cluster test-otel test-deps lint gen cross bench up

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## start a yard on this machine (needs Go only); its sessions keep between runs
	@echo 'building bin/agentyard; the first time this takes a few minutes' >&2
	@go build -o bin/agentyard ./services/standalone/cmd/agentyard
	@exec bin/agentyard up

test: test-deps ## run every test of every module, and check that it builds for Linux and macOS
	go vet $(PACKAGES)
	$(MAKE) --no-print-directory cross
	go test -count=1 $(TESTFLAGS) $(PACKAGES)

test-deps: # what the tests start: real Redis, Git, Node for the agents from npm
	@.ci/test-deps

test-guest: ## run tests of traffic control on a whole Debian kernel in an emulated machine (QEMU, apt; a minute or two)
	go run ./libs/tc/kernel/guest

# Each package has a cluster of its own, in namespaces of its own, and much of what they do is to wait: two at a time.
test-cluster: ## run the tests that need a real Kubernetes, which they start on this machine (Linux, root; the first time builds it)
	@.ci/cluster-deps
	go vet -tags cluster $(CLUSTER_PACKAGES) $(CONTROL_PACKAGES)
	go test -count=1 -p 2 -tags cluster -timeout 40m $(CLUSTERFLAGS) -run '^($(CONTROL_TESTS))$$' $(CONTROL_PACKAGES)
	go test -count=1 -p 2 -parallel 4 -tags cluster -timeout 40m $(CLUSTERFLAGS) $(CLUSTER_PACKAGES)

# The tag leaves out of Prometheus what no session's collector looks for its targets with.
test-otel: ## have a real OpenTelemetry collector work with a session's configuration (builds it the first time, which takes a while)
	cd deploy/collector && GOWORK=off CGO_ENABLED=0 go test -count=1 -trimpath -tags remove_all_sd -timeout 10m -v .

test-soak: test-deps ## kill the processes of a yard at random while it works on 2,000 tasks (some ten minutes)
	go test -count=1 -timeout 90m -v -run TestTasksEndOnce ./services/standalone/promises -tasks 2000

cross: # compile the command for each platform that it ships for
	@set -e; for os in linux darwin; do for arch in amd64 arm64; do \
	  echo "build $$os/$$arch"; CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch go build -o /dev/null ./services/standalone/cmd/agentyard; \
	done; done

lint: bin/golangci-lint ## gofmt and golangci-lint on every module
	@test -z "$$(gofmt -l $(MODULES))" || { echo 'not formatted:'; gofmt -l $(MODULES); exit 1; }
	@set -e; for m in $(MODULES); do echo "lint $$m"; (cd $$m && $(CURDIR)/bin/golangci-lint run --config $(CURDIR)/.golangci.yml ./...); done

bin/golangci-lint: Makefile
	GOBIN=$(CURDIR)/bin GOWORK=off go install $(GOLANGCI_LINT)

gen: ## write the generated files again (docs/openapi.json)
	go run ./services/standalone/cmd/agentyard openapi > docs/openapi.json.new && mv docs/openapi.json.new docs/openapi.json

bench: ## measure against the raw limit and peers: make bench RUN='proxy|replay'
	@! printf '%s\n' tasks-enqueue tasks-drain tasks-dispatch tasks-depth | grep -qE -e '$(RUN)' || .ci/bench-deps
	go run ./bench -run '$(RUN)'

up: ## start a yard on Kubernetes for development (needs Tilt, Helm, Docker and a local cluster)
	@for tool in tilt helm docker kubectl; do command -v $$tool >/dev/null || { \
	  echo "make up needs $$tool, and Tilt (https://tilt.dev), Helm, Docker, kubectl and a local Kubernetes cluster in all; on one machine use make run"; exit 1; }; done
	@kubectl version >/dev/null 2>&1 || { echo 'make up needs a Kubernetes cluster that answers, such as "kind create cluster"; on one machine use make run'; exit 1; }
	tilt up
