package standalone

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
)

// samePort is how long the bus waits for the port it had before. A killed process frees it at
// once; only a stranger holds it longer.
const samePort = 5 * time.Second

// startBus starts the embedded bus of a data directory. Its port stays the same from
// start to start, because the runners that survived a kill look for it there.
func startBus(ctx context.Context, dir string, keys *bus.Keyring, logger *slog.Logger) (*bus.Server, error) {
	file := filepath.Join(dir, BusURLFile)
	cfg := bus.ServerConfig{Dir: filepath.Join(dir, "bus"), Keyring: keys, Logger: logger}
	var server *bus.Server
	var err error
	if cfg.Listen = address(file); cfg.Listen != "" {
		same, cancel := context.WithTimeout(ctx, samePort)
		server, err = bus.StartServer(same, cfg)
		taken := same.Err() != nil && ctx.Err() == nil
		cancel()
		if err != nil && !taken {
			return nil, err
		}
		if err != nil {
			logger.Warn("the bus's port is taken; sessions that survived are started again", "address", cfg.Listen)
		}
	}
	if server == nil {
		cfg.Listen = "127.0.0.1:0"
		if server, err = bus.StartServer(ctx, cfg); err != nil {
			return nil, err
		}
	}
	if err := WriteFile(file, []byte(server.URL()+"\n"), 0o600); err != nil {
		server.Close()
		return nil, err
	}
	return server, nil
}

// address reads host:port from a file that holds a URL; "" when there is none.
func address(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	u, err := url.Parse(strings.TrimSpace(string(data)))
	if err != nil {
		return ""
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		return ""
	}
	return u.Host
}

// BusConfig says how to run the bus as a process of its own.
type BusConfig struct {
	Data   string // keys/, bus/ and creds/ are made in it
	Listen string // "127.0.0.1:4222"
}

// InitBus makes the keyring of a data directory, if there is none, and writes the credentials that processes
// apart need: creds/<service>.creds for each service, creds/tcnode-<node's token>.creds for the agent of each of the
// nodes, and creds/session.issuer for the sessions
// service, which mints the sessions' own with it. All are for their owner's eyes only.
func InitBus(dir string, nodes ...string) (*bus.Keyring, []string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make the data directory: %w", err)
	}
	keys, err := bus.OpenKeyring(filepath.Join(dir, KeysDir))
	if err != nil {
		return nil, nil, err
	}
	creds := filepath.Join(dir, "creds")
	if err := os.MkdirAll(creds, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make the credentials' directory: %w", err)
	}
	var files []string
	write := func(name string, data []byte) error {
		file := filepath.Join(creds, name)
		files = append(files, file)
		return WriteFile(file, data, 0o600)
	}
	for _, service := range bus.Services {
		data, err := keys.ServiceCredentials(service)
		if err == nil {
			err = write(service+".creds", data)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("credentials of %s: %w", service, err)
		}
	}
	for _, node := range nodes {
		token := api.TrafficNodeToken(node)
		data, err := keys.NodeCredentials(token)
		if err == nil {
			err = write(bus.NodeService+"-"+token+".creds", data)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("credentials of node %s: %w", node, err)
		}
	}
	if err := write("session.issuer", keys.SessionIssuer().Marshal()); err != nil {
		return nil, nil, err
	}
	return keys, files, nil
}

// ServeBus runs the bus until ctx ends and calls ready when it takes clients.
func ServeBus(ctx context.Context, cfg BusConfig, logger *slog.Logger, ready func(url string)) error {
	unlock, err := makeAndLock(ctx, cfg.Data)
	if err != nil {
		return err
	}
	defer unlock()
	keys, _, err := InitBus(cfg.Data)
	if err != nil {
		return err
	}
	server, err := bus.StartServer(ctx, bus.ServerConfig{
		Dir: filepath.Join(cfg.Data, "bus"), Listen: cfg.Listen, Keyring: keys, Logger: logger,
	})
	if err != nil {
		return err
	}
	defer server.Close()
	if err := WriteFile(filepath.Join(cfg.Data, BusURLFile), []byte(server.URL()+"\n"), 0o600); err != nil {
		return err
	}
	ready(server.URL())
	<-ctx.Done()
	return nil
}

func makeAndLock(ctx context.Context, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	return lock(ctx, dir)
}
