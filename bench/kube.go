package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// benchKube runs the benchmarks on a Kubernetes control plane, which are a program and a module of their own (bench/cluster), and counts its
// lines as ours. It has bounds of its own, for it starts three clusters and may have to build them first.
func benchKube(ctx context.Context, r *report) error {
	dir, err := os.MkdirTemp("", "agentyard-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	bin := filepath.Join(dir, "cluster")
	own := context.WithoutCancel(ctx)
	build := exec.CommandContext(own, "go", "build", "-o", bin, "agentyard.dev/bench/cluster")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build bench/cluster: %w", err)
	}
	cmd := exec.CommandContext(own, bin)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ignore := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) { // told to stop
			_ = cmd.Process.Signal(syscall.SIGINT)
		}
	})
	defer ignore()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.HasSuffix(line, " held"):
			r.held++
		case strings.HasSuffix(line, " missed") && strings.Contains(line, " goal "):
			r.missed++
		case !strings.HasSuffix(line, " told"):
			continue // its own count
		}
		fmt.Fprintln(r.w, line)
	}
	return cmd.Wait()
}
