// Package scheduler is the service that decides what runs next: tasks, queues, schedules.
//
// It is a process with its own identity on the bus that reports its health and stops when told; tasks come with the
// operations that this package does not answer yet.
package scheduler

import (
	"context"
	"log/slog"

	"agentyard.dev/libs/bus"
)

// Deps is what the service works with.
type Deps struct {
	Bus    *bus.Conn
	Logger *slog.Logger // nil: none
}

// Service is the scheduler.
type Service struct {
	cfg  Config
	deps Deps
}

// New returns the service; Run starts it.
func New(cfg Config, deps Deps) *Service {
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: cfg, deps: deps}
}

// Ready reports nil when the service can do its work: the bus answers.
func (s *Service) Ready(ctx context.Context) error { return s.deps.Bus.Ready(ctx) }

// Run works until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	s.deps.Logger.InfoContext(ctx, "scheduler runs")
	<-ctx.Done()
	return nil
}
