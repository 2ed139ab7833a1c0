//go:build !linux

package process

import "errors"

func possible6() error { return errors.New("only Linux has network namespaces") }

func (r *Runtime) route(*addresses) error { return errors.New("only Linux has network namespaces") }

func (r *Runtime) unroute(*addresses) error { return nil }
