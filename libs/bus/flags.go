package bus

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
)

// ClientFlags is how a process that runs on its own is told where the bus is and who it is there.
type ClientFlags struct {
	URL             string // -bus.url
	CredentialsFile string // -bus.credentials
	Replicas        int    // -bus.replicas
	Crowd           bool   // no flag: Config.Crowd
}

// Register adds the flags of f to fs with f's current values as defaults.
func (f *ClientFlags) Register(fs *flag.FlagSet) {
	if f.URL == "" {
		f.URL = "nats://127.0.0.1:4222"
	}
	fs.StringVar(&f.URL, "bus.url", f.URL, "`address` of the bus, comma-separated for a cluster")
	fs.StringVar(&f.CredentialsFile, "bus.credentials", f.CredentialsFile, "`file` with this service's credentials for the bus")
	fs.IntVar(&f.Replicas, "bus.replicas", max(f.Replicas, 1), "least `number` of copies of each stream that this service makes, on a bus of several servers")
}

// Connect is the function Connect with what the flags say; name is the service's.
func (f *ClientFlags) Connect(name string, logger *slog.Logger) (*Conn, error) {
	if f.CredentialsFile == "" {
		return nil, errors.New("-bus.credentials is not set: name the file with this service's credentials, the bus refuses anonymous clients")
	}
	creds, err := os.ReadFile(f.CredentialsFile)
	if err != nil {
		return nil, fmt.Errorf("-bus.credentials: %w", err)
	}
	return Connect(Config{URL: f.URL, Credentials: creds, Name: name, Logger: logger, Replicas: f.Replicas, Crowd: f.Crowd})
}
