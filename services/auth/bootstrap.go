package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// bootstrap makes the home tenant, its admin and the admin's key, in a yard that has none, and returns when there is one. Of several
// replicas the holder of a lease does it. Killed at any point it is done again, from the same key when that is in a file: the
// tenant's creation, which comes last, ends it for good.
func (s *Service) bootstrap(ctx context.Context) error {
	home := tenantKey(api.HomeTenant)
	if _, ok := s.tenants.view.Get(home); ok {
		return nil
	}
	competing, done := context.WithCancel(ctx)
	defer done()
	watched := make(chan struct{})
	var leading atomic.Bool
	go func() {
		defer close(watched)
		_, _ = s.tenants.view.Wait(competing, home, func(bus.Entry[tenantRecord]) bool { return true })
		if !leading.Load() { // whoever leads sees its own writes here, and has more to do
			done()
		}
	}()
	var failure error
	lease := bus.NewLease(s.deps.Bus, bus.LeaseConfig{Service: "auth", Name: "bootstrap", Holder: s.id})
	err := lease.Run(competing, func(ctx context.Context, _ uint64) {
		leading.Store(true)
		defer leading.Store(false)
		failure = s.retry(ctx, "bootstrap", func() error { return s.makeHome(ctx) })
		if failure == nil || ctx.Err() == nil {
			done()
		}
	})
	done()
	<-watched
	if _, ok := s.tenants.view.Get(home); ok {
		return nil
	}
	return errors.Join(failure, err, ctx.Err())
}

// makeHome makes the home tenant. It needs the bootstrap lease.
func (s *Service) makeHome(ctx context.Context) error {
	home := tenantKey(api.HomeTenant)
	switch _, err := s.tenants.Get(ctx, home); {
	case err == nil:
		return nil
	case !isCode(err, api.CodeNotFound):
		return err
	}
	secret, err := s.bootstrapKey()
	if err != nil {
		return err
	}
	m := bus.Meta{Actor: "service:auth", Verb: "bootstrap"}
	// Keys of attempts that were cut short: nobody needs them, since this one is announced instead.
	owner := api.HomeTenant + "/" + userID(api.HomeTenant, adminName, 0)
	for _, e := range s.keys.view.List(byUser, owner, 0, maxUserKeys, nil) {
		if e.Key.ID != keyID(secret.lookup()) {
			if err := s.keys.Purge(ctx, e.Key); err != nil {
				return err
			}
		}
	}
	if s.cfg.BootstrapKeyFile == "" {
		// Before the tenant exists: a key that was made and not shown would lock everybody out.
		if _, err := fmt.Fprintf(s.deps.Announce, "\nThe first admin's API key, shown once: %s\n\n", secret); err != nil {
			return fmt.Errorf("show the bootstrap key: %w", err)
		}
	}
	if _, err = s.provision(ctx, m, api.Tenant{Name: api.HomeTenant}, secret); err != nil {
		return err
	}
	s.log.InfoContext(ctx, "first start: tenant and admin made", "tenant", api.HomeTenant, "key_file", s.cfg.BootstrapKeyFile)
	s.audit.act(ctx, api.Principal{ID: "service:auth", Tenant: api.HomeTenant}, actBootstrap, userID(api.HomeTenant, adminName, 0), "")
	return nil
}

// bootstrapKey returns the key in the bootstrap key file, which it makes first if need be; without a file a fresh key.
func (s *Service) bootstrapKey() (apiKey, error) {
	path := s.cfg.BootstrapKeyFile
	if path == "" {
		return newAPIKey(), nil
	}
	data, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createFile(path, []byte(newAPIKey()+"\n")); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("write -auth.bootstrap-key-file: %w", err)
		}
		data, err = readSmall(path)
	}
	if err != nil {
		return "", fmt.Errorf("read -auth.bootstrap-key-file: %w", err)
	}
	key, ok := parseAPIKey(strings.TrimSpace(string(data)))
	if !ok {
		return "", fmt.Errorf("-auth.bootstrap-key-file %s holds no well-formed API key: put one there, or remove the file and one is made", path)
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o007 != 0 {
		s.log.Warn("the bootstrap key file can be read by every user of this machine; chmod it to 0600", "path", path)
	}
	return key, nil
}

// readSmall reads a file that should hold one key; what is larger is cut, and then is none.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, 4<<10))
}
