//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"sync"

	"agentyard.dev/deploy/cluster"
)

const (
	registry = "localhost/agentyard"
	redis    = "/usr/bin/redis-server"
	busybox  = "/usr/bin/busybox"
)

// buildImages builds all images from this checkout, two at a time, and returns their tarballs.
func buildImages(ctx context.Context, dir string) ([]string, error) {
	libraries, err := shared(ctx, redis)
	if err != nil {
		return nil, err
	}
	shell := []string{"-add", busybox + ":/bin/sh", "-add", busybox + ":/bin/busybox"}
	images := map[string][]string{
		"gateway":   {"-service", "gateway"},
		"auth":      {"-service", "auth"},
		"sessions":  {"-service", "sessions"},
		"scheduler": {"-service", "scheduler"},
		"runner":    append([]string{"-service", "runner"}, shell...), // whose demo agent runs commands in a shell
		"hooks":     {"-package", "./deploy/hooks"},
		"dns":       {"-package", "./deploy/e2e/dns"},
		"nats":      {"-package", "github.com/nats-io/nats-server/v2", "-path", "/nats-server"},
		"redis":     append([]string{"-binary", redis, "-path", "/usr/local/bin/redis-server"}, libraries...),
	}
	var work sync.WaitGroup
	var mu sync.Mutex
	var paths []string
	var failed error
	room := make(chan struct{}, 2)
	for name, args := range images {
		if slices.Contains(args, "-package") && !slices.Contains(args, "-path") {
			args = append(args, "-path", "/"+name)
		}
		work.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			path, err := cluster.Image(ctx, dir, name, append([]string{"-name", registry + "/" + name + ":dev"}, args...)...)
			mu.Lock()
			defer mu.Unlock()
			if paths = append(paths, path); err != nil && failed == nil {
				failed = err
			}
		})
	}
	work.Wait()
	slices.Sort(paths)
	return paths, failed
}

// shared returns the flags that add a program's shared libraries and its loader to an image.
func shared(ctx context.Context, program string) ([]string, error) {
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("the cluster's Redis: %w (run .ci/test-deps)", err)
	}
	out, err := exec.CommandContext(ctx, "ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("libraries of %s: %w", program, err)
	}
	var flags []string
	for _, m := range regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllStringSubmatch(string(out), -1) {
		flags = append(flags, "-add", m[1]+":"+m[1])
	}
	return flags, nil
}
