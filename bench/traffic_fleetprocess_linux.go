package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"agentyard.dev/libs/daemon"
)

// fleetPart is a process that has a part of the fleet: it takes an order a line and answers each with a line.
type fleetPart struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

// fleetOrder is what a part shall do; which words it knows is said where it is.
type fleetOrder struct {
	Do   string `json:"do"`
	Dir  string `json:"dir,omitempty"`
	URL  string `json:"url,omitempty"`
	N    int    `json:"n,omitempty"`
	From int    `json:"from,omitempty"`
}

type fleetAnswer struct {
	URL   string      `json:"url,omitempty"`
	Count int         `json:"count,omitempty"`
	At    []time.Time `json:"at,omitempty"`
	Error string      `json:"error,omitempty"`
}

// startPart starts this program as a part.
func startPart(ctx context.Context, name string) (*fleetPart, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &fleetPart{name: name, cmd: exec.CommandContext(context.WithoutCancel(ctx), self, name)}
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// do gives an order and waits for the answer.
func (p *fleetPart) do(ctx context.Context, o fleetOrder) (a fleetAnswer, err error) {
	defer context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })() // it ends the reading
	data, err := json.Marshal(o)
	if err != nil {
		return a, err
	}
	if _, err := p.in.Write(append(data, '\n')); err != nil {
		return a, fmt.Errorf("%s: %s: %w", p.name, o.Do, err)
	}
	line, err := p.out.ReadBytes('\n')
	if ctx.Err() != nil {
		return a, fmt.Errorf("%s: %s: %w", p.name, o.Do, ctx.Err())
	}
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		return a, fmt.Errorf("%s: %s: %w", p.name, o.Do, err)
	}
	return a, nil
}

// kill ends it as a power failure would.
func (p *fleetPart) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// servePart is a part's side: it follows orders until nobody gives them any more. With BENCH_PROFILE, a directory, it profiles its
// processor time there from each order "begin" to the next "end", one file each: go tool pprof takes all of a part together.
func servePart(name string, do func(fleetOrder) (fleetAnswer, error)) error {
	if name != partAgents {
		daemon.KeepHeapFloor() // as every process of ours
	} else if os.Getenv("GOGC") == "" {
		// A node's agent has a process of its own, which keeps so little that it hardly ever collects garbage: what it costs to look through what ten thousand
		// keep in one heap is not their doing.
		debug.SetGCPercent(400)
	}
	out := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	profiles := 0
	for lines.Scan() {
		var o fleetOrder
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		var a fleetAnswer
		var err error
		switch o.Do {
		case "begin":
			if dir := os.Getenv("BENCH_PROFILE"); dir != "" {
				profiles++
				err = profileInto(filepath.Join(dir, fmt.Sprintf("%s.%d.pprof", name, profiles)))
			}
		case "end":
			pprof.StopCPUProfile()
		default:
			a, err = do(o)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return lines.Err()
}

func profileInto(file string) error {
	f, err := os.Create(file) //nolint:gosec // its caller's own choice
	if err != nil {
		return err
	}
	return pprof.StartCPUProfile(f)
}

// usage is what a process has used so far.
type usage struct {
	processor time.Duration
	most, now float64 // resident, in MiB
}

func (p *fleetPart) used() (u usage, err error) {
	pid := p.cmd.Process.Pid
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	stat := string(data)
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return u, errors.New("/proc/<pid>/stat is not as expected")
	}
	for _, at := range fields[11:13] { // utime and stime, in hundredths of a second
		ticks, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			return u, err
		}
		u.processor += time.Duration(ticks) * 10 * time.Millisecond
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for name, to := range map[string]*float64{"VmHWM:": &u.most, "VmRSS:": &u.now} {
		_, after, _ := strings.Cut(string(status), name)
		text, _, _ := strings.Cut(after, "kB")
		kib, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil {
			return u, err
		}
		*to = kib / 1024
	}
	return u, nil
}

// raiseFiles lets this process and those that it starts have so many files open.
func raiseFiles(n uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur, limit.Max = max(limit.Max, n), max(limit.Max, n)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("%d open files are needed (ulimit -n): %w", n, err)
	}
	return nil
}
