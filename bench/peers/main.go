// Command peers runs other people's task queues for agentyard's benchmarks: River on PostgreSQL and Asynq on Redis, each with a server of its own on a
// temporary directory. It is a module of its own, so that what the peers need stays out of everything else.
//
//	peers river|asynq
//
// It reads orders from standard input, one JSON object a line, and answers each with one line. It ends, with its server, when the input ends.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// order is what the benchmark asks for.
type order struct {
	// Do is one of:
	//   enqueue  N tasks one by one from Clients goroutines, each answered before its next; answers Seconds
	//   fill     N tasks as fast as the peer can, to wait; answers Seconds
	//   drain    work until N tasks are done and recorded; answers Seconds
	//   latency  N tasks one after another into an idle queue; answers Nanoseconds from before the call to the begin of the work
	//   memory   answers Bytes that the server holds for the tasks that wait
	//   clear    forget all tasks
	Do      string `json:"do"`
	N       int    `json:"n"`
	Clients int    `json:"clients"`
	Workers int    `json:"workers"`
}

// answer is what came of an order.
type answer struct {
	Seconds     float64 `json:"seconds,omitempty"`
	Nanoseconds []int64 `json:"nanoseconds,omitempty"`
	Bytes       int64   `json:"bytes,omitempty"`
	Error       string  `json:"error,omitempty"`
}

// peer is one task queue.
type peer interface {
	// enqueue adds tasks from so many goroutines, each with a connection of its own; it returns when all are kept.
	enqueue(ctx context.Context, clients, n int) error
	fill(ctx context.Context, n int) error
	// work starts workers and returns when n tasks are done, and recorded as done.
	work(ctx context.Context, workers, n int) (time.Duration, error)
	latencies(ctx context.Context, n int) ([]int64, error)
	memory(ctx context.Context) (int64, error)
	clear(ctx context.Context) error
}

// prompt is the payload of every task, ours and the peers'.
const prompt = "say hello and change nothing"

// latencyPause lets a queue be idle before the next task.
const latencyPause = 20 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if len(os.Args) != 2 {
		return errors.New("usage: peers river|asynq")
	}
	start := map[string]func(context.Context) (peer, func(), error){"river": startRiver, "asynq": startAsynq}[os.Args[1]]
	if start == nil {
		return fmt.Errorf("%q is no peer", os.Args[1])
	}
	p, stop, err := start(ctx)
	if err != nil {
		return err
	}
	defer stop()
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(answer{}); err != nil { // ready
		return err
	}
	orders := make(chan order)
	go func() {
		defer close(orders)
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			var o order
			if err := json.Unmarshal(in.Bytes(), &o); err != nil {
				o.Do = err.Error() // answered as unknown
			}
			orders <- o
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case o, more := <-orders:
			if !more {
				return nil
			}
			a, err := obey(ctx, p, o)
			if err != nil {
				a.Error = o.Do + ": " + err.Error()
			}
			if err := out.Encode(a); err != nil {
				return err
			}
		}
	}
}

func obey(ctx context.Context, p peer, o order) (a answer, err error) {
	start := time.Now()
	switch o.Do {
	case "enqueue":
		err = p.enqueue(ctx, o.Clients, o.N)
	case "fill":
		err = p.fill(ctx, o.N)
	case "drain":
		var took time.Duration
		took, err = p.work(ctx, o.Workers, o.N)
		a.Seconds = took.Seconds()
		return a, err
	case "latency":
		a.Nanoseconds, err = p.latencies(ctx, o.N)
	case "memory":
		a.Bytes, err = p.memory(ctx)
	case "clear":
		err = p.clear(ctx)
	default:
		err = errors.New("no such order")
	}
	a.Seconds = time.Since(start).Seconds()
	return a, err
}
