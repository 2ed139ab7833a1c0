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
	"strings"
	"time"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/scheduler"
)

// taskPeer is another task queue, in a process of its own (bench/peers) with its server. Its process collects garbage at GOGC=400, which
// favours it at least as much as what every process of ours does (libs/daemon).
type taskPeer struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

// peerOrder and peerAnswer are described in bench/peers.
type peerOrder struct {
	Do      string `json:"do"`
	N       int    `json:"n,omitempty"`
	Clients int    `json:"clients,omitempty"`
	Workers int    `json:"workers,omitempty"`
}

type peerAnswer struct {
	Seconds     float64         `json:"seconds"`
	Nanoseconds []time.Duration `json:"nanoseconds"`
	Bytes       int64           `json:"bytes"`
	Error       string          `json:"error"`
}

const peerPatience = 60 * time.Second

// buildPeers builds the peers' program. It is no module of the workspace, so that what it needs stays out of it.
func buildPeers(ctx context.Context) (bin string, remove func(), err error) {
	dir, err := os.MkdirTemp("", "agentyard-bench-")
	if err != nil {
		return "", nil, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	where, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "agentyard.dev/bench").Output()
	if err == nil {
		bin = filepath.Join(dir, "peers")
		build := exec.CommandContext(ctx, "go", "build", "-o", bin, ".")
		build.Dir, build.Stderr = filepath.Join(strings.TrimSpace(string(where)), "peers"), os.Stderr
		build.Env = append(os.Environ(), "GOWORK=off")
		err = build.Run()
	}
	if err != nil {
		remove()
		return "", nil, fmt.Errorf("build the peers: %w", err)
	}
	return bin, remove, nil
}

// startPeers starts River and Asynq, each with its server.
func startPeers(ctx context.Context) (river, asynq *taskPeer, stop func(), err error) {
	bin, remove, err := buildPeers(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	if river, err = startPeer(ctx, bin, "river"); err != nil {
		remove()
		return nil, nil, nil, err
	}
	if asynq, err = startPeer(ctx, bin, "asynq"); err != nil {
		river.stop()
		remove()
		return nil, nil, nil, err
	}
	return river, asynq, func() { asynq.stop(); river.stop(); remove() }, nil
}

// taskPlace is where tasks are measured: a yard with one replica of the scheduler, and the peers beside it.
type taskPlace struct {
	*taskYard
	scheduler    *taskScheduler
	river, asynq *taskPeer
}

// besidePeers starts all of a taskPlace and the queue, measures, and stops it.
func besidePeers(
	ctx context.Context, cfg scheduler.Config, work func(context.Context, api.Task) api.TaskResult, paused bool, measure func(*taskPlace) error,
) error {
	river, asynq, stop, err := startPeers(ctx)
	if err != nil {
		return err
	}
	defer stop()
	y, err := startTaskYard(ctx)
	if err != nil {
		return err
	}
	defer y.stop()
	s, err := y.start(ctx, cfg, work)
	if err != nil {
		return err
	}
	defer s.stop()
	if err := y.queue(ctx, paused); err != nil {
		return err
	}
	return measure(&taskPlace{y, s, river, asynq})
}

func startPeer(ctx context.Context, bin, name string) (*taskPeer, error) {
	p := &taskPeer{name: name, cmd: exec.CommandContext(context.WithoutCancel(ctx), bin, name)}
	p.cmd.Stderr = os.Stderr
	p.cmd.Env = append(os.Environ(), "GOGC=400")
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.in, p.out = in, bufio.NewReader(out)
	if _, err := p.answer(ctx); err != nil {
		p.stop()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// stop ends the peer with its server.
func (p *taskPeer) stop() {
	_ = p.in.Close()
	late := time.AfterFunc(peerPatience, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	_ = p.cmd.Wait()
}

func (p *taskPeer) answer(ctx context.Context) (peerAnswer, error) {
	type read struct {
		line []byte
		err  error
	}
	came := make(chan read, 1)
	go func() {
		line, err := p.out.ReadBytes('\n')
		came <- read{line, err}
	}()
	select {
	case r := <-came:
		var a peerAnswer
		if r.err != nil {
			return a, errors.New("it ended; what it said is above")
		}
		if err := json.Unmarshal(r.line, &a); err != nil {
			return a, err
		}
		if a.Error != "" {
			return a, errors.New(a.Error)
		}
		return a, nil
	case <-ctx.Done():
		_ = p.cmd.Process.Kill() // it ends the reading
		<-came
		return peerAnswer{}, ctx.Err()
	}
}

func (p *taskPeer) do(ctx context.Context, o peerOrder) (peerAnswer, error) {
	data, err := json.Marshal(o)
	if err != nil {
		return peerAnswer{}, err
	}
	if _, err := p.in.Write(append(data, '\n')); err != nil {
		return peerAnswer{}, fmt.Errorf("%s: %w", p.name, err)
	}
	a, err := p.answer(ctx)
	if err != nil {
		return a, fmt.Errorf("%s: %w", p.name, err)
	}
	return a, nil
}

// rate does o and returns how many of its tasks a second.
func (p *taskPeer) rate(ctx context.Context, o peerOrder) (float64, error) {
	a, err := p.do(ctx, o)
	return float64(o.N) / a.Seconds, err
}
