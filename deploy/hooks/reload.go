package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// reloadEvery is how often the files are looked at. The kubelet itself takes up to a minute to write what has changed.
const reloadEvery = 2 * time.Second

// runReload sends SIGHUP to a process of this pod whenever the files that it is configured with have changed.
func runReload(ctx context.Context, args []string, logger *slog.Logger) error {
	var process string
	var dirs []string
	every := reloadEvery
	flags := flag.NewFlagSet("reload", flag.ContinueOnError)
	flags.StringVar(&process, "process", "", "`name` of the process's program")
	flags.DurationVar(&every, "every", every, "how often to look")
	flags.Func("dir", "`directory` with its files; may be given again", func(s string) error {
		dirs = append(dirs, s)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if process == "" || len(dirs) == 0 || every <= 0 {
		return errors.New("reload: want -process and -dir")
	}
	told, err := digest(dirs)
	if err != nil {
		return err
	}
	logger.InfoContext(ctx, "watching", "process", process, "dirs", dirs)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := digest(dirs)
		if err != nil { // half written: the next look sees it whole
			logger.WarnContext(ctx, "look at the files", "err", err)
			continue
		}
		if now == told {
			continue
		}
		if err := hangUp(process); err != nil {
			logger.WarnContext(ctx, "tell the process", "err", err)
			continue
		}
		told = now
		logger.InfoContext(ctx, "told to read its configuration again", "process", process)
	}
}

// digest returns a sum of all files' names and contents. Kubernetes' own links, which begin with "..", are left out.
func digest(dirs []string) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return sum, err
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "..") {
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				return sum, err
			}
			fmt.Fprintf(h, "%s/%s %d\n", dir, e.Name(), len(data))
			_, _ = h.Write(data) // a hash never fails
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// hangUp sends SIGHUP to the processes whose program has the name.
func hangUp(name string) error {
	found, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return err
	}
	told := 0
	for _, file := range found {
		comm, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has just ended
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(comm)) != name {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
			return fmt.Errorf("signal %s (%d): %w", name, pid, err)
		}
		told++
	}
	if told == 0 {
		return fmt.Errorf("there is no process %s", name)
	}
	return nil
}
