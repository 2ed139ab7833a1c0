package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"agentyard.dev/libs/bus"
)

// The chart's configuration, as its golden manifest has it, and the job's Secrets make a cluster of stock servers that believes the
// services and keeps three copies.
func TestBusChart(t *testing.T) {
	manifest, err := os.ReadFile(filepath.Join("..", "charttest", "testdata", "agentyard-ha.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(manifest), "  nats.conf: |\n")
	if !ok {
		t.Fatal("the chart renders no nats.conf")
	}
	conf, _, _ := strings.Cut(rest, "\n---")
	conf = regexp.MustCompile(`(?m)^    `).ReplaceAllString(conf, "")

	y := yard{name: "agentyard", servers: 3}
	secrets := made(t, y, nil)
	var client, route [3]string
	for i := range 3 {
		client[i], route[i] = freeAddress(t), freeAddress(t)
	}
	var servers []*server.Server
	for i := range 3 {
		dir := t.TempDir()
		cluster := string(secrets["agentyard-nats-trust"].Data["cluster.conf"])
		for j := range 3 { // as the name service would
			host := fmt.Sprintf("agentyard-nats-%d.agentyard-nats-headless:6222", j)
			if !strings.Contains(cluster, "@"+host) {
				t.Fatalf("no route to %s in\n%s", host, cluster)
			}
			cluster = strings.ReplaceAll(cluster, host, route[j])
		}
		text := strings.NewReplacer("0.0.0.0:4222", client[i], "0.0.0.0:6222", route[i], "http: 0.0.0.0:8222", "",
			"store_dir: /data", "store_dir: '"+dir+"/data'").Replace(conf)
		for name, content := range map[string]string{
			"nats.conf": text, "cluster.conf": cluster, "trust.conf": string(secrets["agentyard-nats-trust"].Data["trust.conf"]),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("POD_NAME", fmt.Sprintf("agentyard-nats-%d", i))
		opts, err := server.ProcessConfigFile(filepath.Join(dir, "nats.conf"))
		if err != nil {
			t.Fatal(err)
		}
		if opts.MaxPayload != bus.MaxPayload {
			t.Errorf("max_payload is %d, services count on %d", opts.MaxPayload, bus.MaxPayload)
		}
		opts.NoSigs, opts.NoLog = true, true
		s, err := server.NewServer(opts)
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, s)
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	}
	for _, s := range servers {
		if !s.ReadyForConnections(patience) {
			t.Fatal("a server is not ready")
		}
	}

	conn, err := bus.Connect(bus.Config{URL: "nats://" + client[0] + ",nats://" + client[1], Name: "auth", Replicas: 3, Credentials: secrets["agentyard-auth-bus"].Data["bus.creds"]})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(ctx)) })
	type user struct{ Name string }
	var ledger *bus.Ledger[user]
	for ledger == nil { // until the servers have chosen a leader
		if ledger, err = bus.OpenLedger[user](ctx, conn, bus.LedgerConfig{Noun: "users"}); err != nil && ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	key := bus.Key{Tenant: "default", ID: "u1"}
	if _, err := ledger.Create(ctx, key, bus.Meta{Actor: "service:auth", Verb: "create"}, user{"kim"}); err != nil {
		t.Fatal(err)
	}
	// The loss of any server, the stream's leader too, loses nothing: it is another's turn.
	servers[0].Shutdown()
	servers[0].WaitForShutdown()
	for {
		e, err := ledger.Get(ctx, key)
		if err == nil && e.State.Name == "kim" {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("after the loss of a server: %+v, %v", e, err)
		}
	}

	stranger := made(t, y, nil)["agentyard-auth-bus"].Data["bus.creds"] // of another keyring
	other, err := bus.Connect(bus.Config{URL: "nats://" + client[1], Name: "auth", Credentials: stranger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close(context.WithoutCancel(ctx)) })
	if err := other.Ready(ctx); err == nil {
		t.Error("the bus lets in a credential of another yard")
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
