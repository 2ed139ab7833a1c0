//go:build !linux

package sandbox

import (
	"context"
	"errors"

	"agentyard.dev/libs/api"
)

// Group is a cgroup; there are none here.
type Group struct{}

// MakeGroup fails: only Linux has cgroups.
func MakeGroup(string, api.Resources) (*Group, error) {
	return nil, errors.New("only Linux has cgroups")
}

// FindGroup returns an empty group.
func FindGroup(string) *Group { return &Group{} }

func (g *Group) String() string { return "" }

// Admit does nothing.
func (g *Group) Admit(int, int) error { return nil }

// Remove does nothing.
func (g *Group) Remove(context.Context) error { return nil }
