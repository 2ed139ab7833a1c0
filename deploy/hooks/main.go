// Command hooks is what agentyard's charts run beside the services: the job that makes keys and credentials, the
// sidecar that has the bus read its configuration again, and the check of helm test.
//
// It links no Kubernetes client: it needs three verbs of one resource.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// verbs are the commands; each parses its own arguments.
var verbs = map[string]func(ctx context.Context, args []string, logger *slog.Logger) error{
	"keys":   runKeys,
	"reload": runReload,
	"check":  runCheck,
}

func main() {
	logger := slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("service", "hooks")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], logger)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		logger.Error("failed", "err", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func run(ctx context.Context, args []string, logger *slog.Logger) error {
	if len(args) > 0 {
		if verb, ok := verbs[args[0]]; ok {
			return verb(ctx, args[1:], logger.With("op", args[0]))
		}
	}
	return fmt.Errorf("%q: want one of keys, reload, check", strings.Join(args, " "))
}
