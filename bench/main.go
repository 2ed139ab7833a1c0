// Command bench measures agentyard's performance promises. Each benchmark runs ours and
// the raw limit or a peer side by side, on one machine, in one run, and prints a line per
// figure: name, ours, reference, ratio, goal, held or missed.
//
//	go run ./bench                 all of them
//	go run ./bench -run 'proxy|replay'
//	go run ./bench -run fleet      10,000 node agents: needs some 5 GiB of memory and 11,000 open files a process
//	go run ./bench -run tasks      needs PostgreSQL and Redis (make bench RUN=tasks installs them by apt) and starts both
//
// The figures of one run can be compared with each other, not with another machine's.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

// benchmark is one named measurement.
type benchmark struct {
	name  string
	about string
	run   func(ctx context.Context, r *report) error
}

var benchmarks = []benchmark{
	{"ledger", "ledger updates beside raw JetStream publishes", benchLedger},
	{"log", "log appends beside raw JetStream publishes", benchLog},
	{"proxy", "GET …/agent/status through the gateway, direct and through nginx", benchProxy},
	{"event", "message to first event at the client, beyond the agent", benchEvent},
	{"replay", "replay of 1,500 events", benchReplay},
	{"create", "session create to running with the demo agent", benchCreate},
	{"sse", "2,000 SSE clients on 200 sessions", benchSSE},
	{"list", "one user's 20 sessions among 50,000 of others", benchList},
	{"kube", "sessions as pods on a real control plane with simulated nodes (bench/cluster)", benchKube},
	{"tasks-enqueue", "tasks made one by one, beside River and Asynq", benchEnqueue},
	{"tasks-drain", "no-op tasks done, beside River and Asynq", benchDrain},
	{"tasks-dispatch", "enqueue to begin of work, beside River and Asynq", benchDispatch},
	{"tasks-takeover", "another replica dispatches 100,000 tasks", benchTakeover},
	{"tasks-depth", "a task's cost and memory while 100,000 and 1,000,000 wait", benchDepth},
}

// inner are the parts of benchmarks that have a process of their own, so that what they use can be told apart: this program, started again with the
// part's name as its only argument.
var inner = map[string]func(ctx context.Context) error{}

// runTimeout bounds one benchmark.
const runTimeout = 15 * time.Minute

func main() {
	if len(os.Args) == 2 && inner[os.Args[1]] != nil {
		if err := inner[os.Args[1]](context.Background()); err != nil {
			fmt.Fprintf(os.Stderr, "bench %s: %v\n", os.Args[1], err)
			os.Exit(1)
		}
		return
	}
	only := flag.String("run", "", "run only the benchmarks whose name matches this regular expression")
	out := flag.String("out", "", "also append the lines to this file")
	flag.Parse()
	match, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: -run:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r := newReport(*out)
	defer r.close()
	failed := false
	for _, b := range benchmarks {
		if !match.MatchString(b.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "# %s: %s\n", b.name, b.about)
		ctx, cancel := context.WithTimeout(ctx, runTimeout)
		if err := b.run(ctx, r); err != nil {
			fmt.Fprintf(os.Stderr, "bench %s: %v\n", b.name, err)
			failed = true
		}
		cancel()
	}
	fmt.Printf("%d held, %d missed\n", r.held, r.missed)
	if failed {
		os.Exit(1)
	}
}
