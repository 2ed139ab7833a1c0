package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"path/filepath"

	"agentyard.dev/libs/bus"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/kube"
	"agentyard.dev/services/sessions/kube/declare"
	"agentyard.dev/services/sessions/process"
)

// runtimes is where sessions run, as flags say it.
type runtimes struct {
	kind  string
	local process.Config
	kube  kube.Config
	// declared are the objects of the cluster that declare sessions.
	declared declare.Config
}

// runtime is one of them.
type runtime interface {
	sessions.Runtime
	Info() sessions.RuntimeInfo
	Run(ctx context.Context) error
}

func (r *runtimes) register(fs *flag.FlagSet) {
	r.local, r.kube = process.DefaultConfig(), kube.DefaultConfig()
	fs.StringVar(&r.kind, "sessions.runtime", process.Name, "where sessions run: process, as processes of this machine, or kube, as pods")
	r.local.Register(fs)
	r.kube.Register(fs)
	r.declared.Register(fs)
}

// declarations returns who follows the objects that declare sessions; nil: nobody.
func (r *runtimes) declarations(logger *slog.Logger) (sessions.Declarations, error) {
	if r.declared.Namespaces == "" {
		return nil, nil
	}
	cluster, err := r.kube.Connect()
	if err != nil {
		return nil, fmt.Errorf("-kube.declarations: %w", err)
	}
	c, err := declare.New(r.declared, cluster, logger)
	if err != nil || c == nil {
		return nil, err
	}
	return c, nil
}

// open returns the chosen runtime, with nothing done yet. secrets are files that agents must not see.
func (r *runtimes) open(busURL string, issuer *bus.SessionIssuer, secrets []string, logger *slog.Logger) (runtime, error) {
	switch r.kind {
	case process.Name:
		if r.local.DataDir == "" {
			return nil, errors.New("-sessions.data-dir is not set")
		}
		for _, secret := range secrets { // agents may have the service's own user id
			if secret == "" {
				continue
			}
			abs, err := filepath.Abs(secret)
			if err != nil {
				return nil, fmt.Errorf("hide %s from agents: %w", secret, err)
			}
			r.local.Hide = append(r.local.Hide, abs)
		}
		return process.New(r.local, logger), nil
	case kube.Name:
		cluster, err := r.kube.Connect()
		if err != nil {
			return nil, fmt.Errorf("-sessions.runtime=kube: %w", err)
		}
		return kube.New(r.kube, kube.Deps{Cluster: cluster, BusURL: busURL, Credentials: issuer.PodCredentials, Logger: logger}), nil
	}
	return nil, fmt.Errorf("-sessions.runtime: there is no runtime %q; choose process or kube", r.kind)
}
