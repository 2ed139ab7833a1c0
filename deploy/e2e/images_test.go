//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"

	"agentyard.dev/deploy/cluster"
)

const (
	registry = "localhost/agentyard"
	redis    = "/usr/bin/redis-server"
	busybox  = "/usr/bin/busybox"
)

// imageBuilder is the program deploy/image.
type imageBuilder string

func newBuilder(ctx context.Context, root, dir string) (imageBuilder, error) {
	path := filepath.Join(dir, "image")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "./deploy/image")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build deploy/image: %w\n%s", err, out)
	}
	return imageBuilder(path), nil
}

// all builds images from the sources in src, two at a time, and returns their tarballs in dir.
func (b imageBuilder) all(ctx context.Context, src, dir string, images map[string][]string) ([]string, error) {
	var work sync.WaitGroup
	var mu sync.Mutex
	var paths []string
	var failed error
	room := make(chan struct{}, 2)
	for name, args := range images {
		work.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			path := filepath.Join(dir, name+".tar")
			cmd := exec.CommandContext(ctx, string(b), append(args, "-o", path)...)
			cmd.Dir = src
			out, err := cmd.CombinedOutput()
			mu.Lock()
			defer mu.Unlock()
			if paths = append(paths, path); err != nil && failed == nil {
				failed = fmt.Errorf("build image %s: %w\n%s", name, err, out)
			}
		})
	}
	work.Wait()
	slices.Sort(paths)
	return paths, failed
}

// imageFlags returns how the image of a release's program is built. Sessions have a shell, in which the demo agent runs commands.
func imageFlags(name, pkg, tag string) []string {
	args := []string{"-package", pkg, "-path", "/" + name, "-name", registry + "/" + name + ":" + tag}
	if name == "runner" {
		args = append(args, "-user", "999:999", "-add", busybox+":/bin/sh", "-add", busybox+":/bin/busybox")
	}
	return args
}

// buildImages builds all images from this checkout, but for those of a release that the cache has, and returns their tarballs.
func buildImages(ctx context.Context, h *history, dir string, build imageBuilder) ([]string, error) {
	libraries, err := cluster.Libraries(ctx, redis)
	if err != nil {
		return nil, err
	}
	tag := h.tag()
	images := map[string][]string{
		"dns":   imageFlags("dns", "./deploy/e2e/dns", tag),
		"nats":  {"-package", "github.com/nats-io/nats-server/v2", "-path", "/nats-server", "-name", registry + "/nats:" + tag},
		"redis": append([]string{"-binary", redis, "-path", "/usr/local/bin/redis-server", "-name", registry + "/redis:" + tag}, libraries...),
	}
	have, err := h.cached(tag)
	if err != nil {
		for name, pkg := range programs {
			images[name] = imageFlags(name, pkg, tag)
		}
	}
	made, err := build.all(ctx, h.root, dir, images)
	if err == nil && h.head != "" {
		err = h.keep(ctx, h.root, dir, h.head)
	}
	return append(made, have.images...), err
}
