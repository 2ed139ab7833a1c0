// Command cluster measures sessions as pods on a real Kubernetes control plane (deploy/cluster: etcd, API server, controllers, scheduler), beside a plain loop
// of client-go that makes pods, in the same run, and prints a line per figure as bench does: name, ours, reference, ratio, goal, held or missed.
//
// The bus and the manager (the sessions service with its kube runtime) are processes of their own. The nodes are this program: it marks pods that
// the scheduler has bound as running, which is one write where a kubelet needs two or three, and in place of each pod's runner speaks the runner's own
// protocol on the bus: it asks to be bound, reports that it runs, and stays connected until its pod ends. So what is measured is what the control planes do, theirs and ours.
//
//	go run ./bench/cluster                 all of them; make bench RUN=kube does the same
//	go run ./bench/cluster -run warm
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

	"agentyard.dev/libs/daemon"
)

// benchmark is one named measurement on one cluster.
type benchmark struct {
	name  string
	about string
	run   func(ctx context.Context, p *place, r *report) error
}

var benchmarks = []benchmark{
	{"cold", "cold starts beside a plain loop of pod creations", benchCold},
	{"warm", "warm starts at 75/s for 10 s, and as many as go", benchWarm},
	{"many", "thousands of sessions at rest", benchMany},
}

// runTimeout bounds one benchmark, with the time until it can begin.
const runTimeout = 8 * time.Minute

func main() {
	daemon.KeepHeapFloor() // as every process of ours
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case busVerb:
			os.Exit(status(serveBus()))
		case managerVerb:
			os.Exit(status(manage()))
		}
	}
	only := flag.String("run", "", "run only the benchmarks whose name matches this regular expression")
	profile := flag.String("profile", "", "write processor profiles of the manager, the bus, the API server and this program to `directory`")
	many := flag.Int("sessions", 5000, "how many sessions are at rest in the benchmark many")
	verbose := flag.Bool("v", false, "show the log of the manager")
	flag.Parse()
	match, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: -run:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r := &report{}
	failed := false
	for _, b := range benchmarks {
		if !match.MatchString(b.name) || ctx.Err() != nil {
			continue
		}
		fmt.Fprintf(os.Stderr, "# kube %s: %s\n", b.name, b.about)
		if err := measure(ctx, b, r, *profile, *many, *verbose); err != nil {
			fmt.Fprintf(os.Stderr, "bench kube %s: %v\n", b.name, err)
			failed = true
		}
	}
	fmt.Printf("%d held, %d missed\n", r.held, r.missed)
	if failed {
		os.Exit(1) //nolint:gocritic // nothing is left to be deferred but the signal handler
	}
}

// measure runs one benchmark in a place of its own.
func measure(ctx context.Context, b benchmark, r *report, profile string, many int, verbose bool) error {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	p := &place{profile: profile, many: many}
	defer p.close()
	if err := p.open(ctx, b.name, verbose); err != nil {
		return err
	}
	return b.run(ctx, p, r)
}

func status(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, os.Args[1]+":", err)
		return 1
	}
	return 0
}
