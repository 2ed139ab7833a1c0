// Command image builds an image without a daemon and without a registry: one static binary, and files that are asked for, on nothing.
//
//	go run ./deploy/image -service sessions -o sessions.tar
//	go run ./deploy/image -service runner -platform linux/arm64 -add /bin/busybox:/bin/sh -o runner.tar
//
// The tarball is what "docker load", "ctr images import" and "crane push" take. The deploy/Dockerfile makes the images that are published; this
// makes the same for tests and for machines that have Go only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// repository is the images' default name, before the service's: a registry that nobody asks.
const repository = "localhost/agentyard/"

// commands is which package each image runs, and as whom.
var commands = map[string]struct{ pkg, user string }{
	"gateway":      {"./services/gateway/cmd/gateway", service},
	"auth":         {"./services/auth/cmd/auth", service},
	"sessions":     {"./services/sessions/cmd/sessions", service},
	"scheduler":    {"./services/scheduler/cmd/scheduler", service},
	"tccontroller": {"./services/tcagent/cmd/tccontroller", service},
	"tcagent":      {"./services/tcagent/cmd/tcagent", service},
	"hooks":        {"./deploy/hooks", service},
	"runner":       {"./services/sessions/cmd/runner", "999:999"}, // inside a session
}

const service = "65532:65532" // "nonroot", as distroless images have it

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// run builds the binary and writes the tarball.
func run(ctx context.Context, args []string) error {
	var s spec
	var svc, pkg, platform, version, out string
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	fs.StringVar(&svc, "service", "", "gateway, auth, sessions, scheduler, tccontroller, tcagent, hooks or runner: builds its command")
	fs.StringVar(&pkg, "package", "", "Go `package` to build instead, from this directory")
	fs.StringVar(&s.Binary, "binary", "", "`file` with a static binary to take instead of building one")
	fs.StringVar(&s.Name, "name", "", "the image's name and tag; empty: "+repository+"<service>:dev")
	fs.StringVar(&s.Path, "path", "", "where the binary is in the image; empty: /<service>")
	fs.StringVar(&platform, "platform", "linux/amd64", "`os/arch` of the image")
	fs.StringVar(&s.User, "user", "", "user and group `id`s; empty: the service's")
	fs.StringVar(&version, "version", "dev", "what the binary says its version is")
	fs.StringVar(&out, "o", "", "tarball to write")
	fs.Func("add", "`file:path` to add, executable if it is; may be repeated", func(v string) error {
		from, to, ok := strings.Cut(v, ":")
		if !ok || !strings.HasPrefix(to, "/") {
			return fmt.Errorf("%q is not file:/path", v)
		}
		s.Files = append(s.Files, added{from, to})
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return err
	}
	name := svc
	if svc != "" {
		command, ok := commands[svc]
		if !ok {
			return fmt.Errorf("-service: there is no service %q", svc)
		}
		pkg = command.pkg
		if s.User == "" {
			s.User = command.user
		}
	}
	switch {
	case out == "" || fs.NArg() > 0:
		return errors.New("usage: image -service NAME -o FILE")
	case (pkg == "") == (s.Binary == ""):
		return errors.New("one of -service, -package and -binary is needed")
	case name == "":
		name = filepath.Base(pkg + s.Binary)
	}
	if s.Name == "" {
		s.Name = repository + name + ":dev"
	}
	if s.User == "" {
		s.User = service
	}
	var ok bool
	if s.OS, s.Arch, ok = strings.Cut(platform, "/"); !ok {
		return fmt.Errorf("-platform: %q is not os/arch", platform)
	}
	if pkg != "" {
		dir, err := os.MkdirTemp("", "image-*")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		s.Binary = filepath.Join(dir, name)
		if err := build(ctx, pkg, version, s); err != nil {
			return err
		}
	}
	if s.Path == "" {
		s.Path = "/" + name
	}
	return write(s, out)
}

// build makes a static binary.
func build(ctx context.Context, pkg, version string, s spec) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-ldflags=-s -w -X main.version="+version, "-o", s.Binary, pkg)
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "CGO_ENABLED=") })
	cmd.Env = append(env, "CGO_ENABLED=0", "GOOS="+s.OS, "GOARCH="+s.Arch)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, text)
	}
	return nil
}
