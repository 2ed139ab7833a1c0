// Command cluster runs a command in a Kubernetes of its own, which ends with the command:
//
//	go run ./deploy/cluster/cmd/cluster -nodes 2 -image runner.tar -- bash
//	go run ./deploy/cluster/cmd/cluster -hollow 2 -- kubectl get nodes
//	go run ./deploy/cluster/cmd/cluster -build
//	go run ./deploy/cluster/cmd/cluster -check
//
// -build builds Kubernetes, if the cache has it not, and ends. -check ends with a sentence on standard output, and the status 1, if a cluster with nodes cannot be had here at once.
//
// The command finds the cluster by KUBECONFIG; "kubectl" is the cluster's own. With nodes, the command is in the cluster's namespaces and reaches its pods.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"agentyard.dev/deploy/cluster"
)

func main() {
	var cfg cluster.Config
	flag.IntVar(&cfg.Nodes, "nodes", 0, "real nodes; needs root")
	flag.IntVar(&cfg.Hollow, "hollow", 0, "hollow nodes, on loopback")
	flag.DurationVar(&cfg.NodeGrace, "node-grace", 40*time.Second, "how long a silent node is believed to be alive")
	flag.StringVar(&cfg.Dir, "dir", "", "directory of state and logs; empty: a temporary one")
	flag.Func("image", "image tarball for the nodes; may be repeated", func(v string) error {
		path, err := filepath.Abs(v)
		cfg.Images = append(cfg.Images, path)
		return err
	})
	build := flag.Bool("build", false, "only build Kubernetes")
	check := flag.Bool("check", false, "only say whether a cluster with nodes can be had")
	flag.Parse()
	cfg.Logf = log.Printf
	switch {
	case *check && !cluster.Probing():
		if err := cluster.Check(context.Background()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	case *build:
		if _, err := cluster.Binary(context.Background()); err != nil {
			log.Fatal(err)
		}
		return
	case cfg.Nodes > 0 || *check:
		cluster.Enter()
	}
	code, err := run(context.Background(), cfg, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		code = 1
	}
	os.Exit(code)
}

// run starts the cluster and the command.
func run(ctx context.Context, cfg cluster.Config, argv []string) (int, error) {
	if len(argv) == 0 {
		return 0, errors.New("usage: cluster [flags] -- COMMAND ARG…")
	}
	c, err := cluster.Start(ctx, cfg)
	if err != nil {
		return 0, err
	}
	defer c.Stop()
	bin := filepath.Join(c.Dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return 0, err
	}
	if err := os.Symlink(c.Kubectl[0], filepath.Join(bin, "kubectl")); err != nil && !errors.Is(err, os.ErrExist) {
		return 0, err
	}
	if err := os.Setenv("PATH", bin+":"+os.Getenv("PATH")); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}
