package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// kubernetesVersion is what kubeall's go.mod requires, as the components shall say it.
const kubernetesVersion = "v1.36.4"

// kubeall returns where its sources are and where it is or is to be; no sources when somebody else has seen to it.
func kubeall(ctx context.Context) (src, path string, err error) {
	if path := os.Getenv(envBinary); path != "" {
		return "", path, nil
	}
	root, err := Root(ctx)
	if err != nil {
		return "", "", err
	}
	src = filepath.Join(root, "deploy", "cluster", "kubeall")
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOOS, runtime.GOARCH, kubernetesVersion)
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		data, err := os.ReadFile(filepath.Join(src, name))
		if err != nil {
			return "", "", fmt.Errorf("build kubeall: %w", err)
		}
		sum.Write(data)
	}
	cache, err := CacheDir("kubeall")
	return src, filepath.Join(cache, "kubeall-"+hex.EncodeToString(sum.Sum(nil)[:8])), err
}

// Binary returns the path of kubeall, which it builds when the cache has none for its sources and this Go. That takes six minutes of two
// processors the first time. It needs the module cache or the network then, so Enter calls it before the network is gone.
func Binary(ctx context.Context) (string, error) {
	src, path, err := kubeall(ctx)
	if err != nil || src == "" {
		return path, err
	}
	unlock, err := lock(path + ".lock")
	if err != nil {
		return "", fmt.Errorf("build kubeall: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fmt.Fprintln(os.Stderr, "building kubeall, every component of Kubernetes in one binary; the first time this takes some minutes")
	major, rest, _ := strings.Cut(strings.TrimPrefix(kubernetesVersion, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	const pkg = "k8s.io/component-base/version"
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false",
		"-ldflags=-s -w -X "+pkg+".gitVersion="+kubernetesVersion+" -X "+pkg+".gitMajor="+major+" -X "+pkg+".gitMinor="+minor,
		"-o", path+".new", ".")
	cmd.Dir = src
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build kubeall: %w\n%s", err, out)
	}
	for _, old := range older(path) {
		_ = os.Remove(old)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", fmt.Errorf("build kubeall: %w", err)
	}
	return path, nil
}

// older returns the binaries of other sources, which would fill the cache one after the other.
func older(path string) []string {
	all, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "kubeall-????????????????"))
	var old []string
	for _, p := range all {
		if p != path {
			old = append(old, p)
		}
	}
	return old
}

// CacheDir returns a directory that outlives the checkout: below /var/cache/agentyard for root, else below the user's cache.
func CacheDir(name string) (string, error) {
	base := "/var/cache/agentyard"
	if os.Geteuid() != 0 {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find a cache directory: %w", err)
		}
		base = filepath.Join(user, "agentyard")
	}
	dir := filepath.Join(base, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make a cache directory: %w", err)
	}
	return dir, nil
}

// Root returns the directory of the workspace's go.work.
func Root(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOWORK").Output()
	if err != nil {
		return "", fmt.Errorf("find the workspace: %w", err)
	}
	file := strings.TrimSpace(string(out))
	if file == "" || file == "off" {
		return "", errors.New("find the workspace: there is no go.work above this directory")
	}
	return filepath.Dir(file), nil
}

// Image builds an image tarball with deploy/image and returns its path in dir. args are that command's flags without -o.
func Image(ctx context.Context, dir, name string, args ...string) (string, error) {
	root, err := Root(ctx)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name+".tar")
	cmd := exec.CommandContext(ctx, "go", append([]string{"run", "./deploy/image", "-o", path}, args...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build image %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// Libraries returns the flags with which deploy/image adds to an image what a program of this machine needs beside itself: shared libraries and their loader.
func Libraries(ctx context.Context, program string) ([]string, error) {
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("a program for an image: %w (run .ci/cluster-deps)", err)
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
