package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const (
	startPatience = 60 * time.Second
	stopPatience  = 30 * time.Second
)

// startPostgres starts a PostgreSQL on a fresh directory with its defaults, fsync and synchronous_commit among them, but for more connections and,
// as its own manual recommends, a quarter of a gigabyte of shared buffers. It returns the URL. PostgreSQL
// refuses to run as root: then it runs as the user "postgres", which the package makes, or "nobody".
func startPostgres(ctx context.Context) (url string, stop func(), err error) {
	bin, err := postgresBin()
	if err != nil {
		return "", nil, err
	}
	dir, as, err := serverDir()
	if err != nil {
		return "", nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) }
	data := filepath.Join(dir, "data")
	init := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-locale")
	init.Dir, init.SysProcAttr = dir, as
	if out, err := init.CombinedOutput(); err != nil {
		remove()
		return "", nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	port, err := freePort()
	if err != nil {
		remove()
		return "", nil, err
	}
	end, err := startServer(dir, as, filepath.Join(bin, "postgres"), "-D", data, "-h", "127.0.0.1", "-p", strconv.Itoa(port), "-k", dir,
		"-c", "max_connections=400", "-c", "shared_buffers=256MB")
	if err != nil {
		remove()
		return "", nil, err
	}
	return fmt.Sprintf("postgres://bench@127.0.0.1:%d/postgres?sslmode=disable", port), func() { end(syscall.SIGINT); remove() }, nil
}

// postgresBin finds PostgreSQL's programs: Debian keeps them out of PATH.
func postgresBin() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // the pattern is good
	if len(found) == 0 {
		return "", errors.New("PostgreSQL is not installed: apt-get install postgresql")
	}
	return filepath.Dir(found[len(found)-1]), nil
}

// startRedis starts a Redis on a fresh directory that appends each write to its file and syncs the file every second, as its manual
// recommends where data must be kept.
func startRedis(context.Context) (addr string, stop func(), err error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", nil, errors.New("Redis is not installed: apt-get install redis-server")
	}
	dir, as, err := serverDir()
	if err != nil {
		return "", nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) }
	port, err := freePort()
	if err != nil {
		remove()
		return "", nil, err
	}
	end, err := startServer(dir, as, path, "--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", dir, "--appendonly", "yes", "--appendfsync", "everysec",
		"--save", "", "--daemonize", "no", "--loglevel", "warning")
	if err != nil {
		remove()
		return "", nil, err
	}
	return "127.0.0.1:" + strconv.Itoa(port), func() { end(syscall.SIGTERM); remove() }, nil
}

// serverDir makes a directory for a server, and says as whom to run it.
func serverDir() (string, *syscall.SysProcAttr, error) {
	dir, err := os.MkdirTemp("", "agentyard-peer-")
	if err != nil || os.Geteuid() != 0 {
		return dir, nil, err
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return "", nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return "", nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return "", nil, err
	}
	if err := os.Chown(dir, int(uid), int(gid)); err != nil { //nolint:gosec // both are of 32 bits
		return "", nil, err
	}
	return dir, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
}

// startServer starts a server; what it says is told if it ends before it is asked to.
func startServer(dir string, as *syscall.SysProcAttr, path string, args ...string) (stop func(os.Signal), err error) {
	var said bytes.Buffer
	cmd := exec.Command(path, args...) //nolint:noctx // it is stopped by hand, in order
	cmd.Dir, cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = dir, as, &said, &said
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(path), err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	return func(sig os.Signal) {
		select {
		case <-ended:
			fmt.Fprintf(os.Stderr, "peers: %s ended by itself: %s\n", filepath.Base(path), said.String())
			return
		default:
		}
		_ = cmd.Process.Signal(sig)
		select {
		case <-ended:
		case <-time.After(stopPatience):
			_ = cmd.Process.Kill()
			<-ended
		}
	}, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// until repeats try until it works.
func until(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
