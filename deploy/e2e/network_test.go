//go:build cluster

package e2e

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
)

// Addresses beyond the cluster (RFC 5737), each with a server on both ports.
const (
	granted  = "203.0.113.1" // in the network that the profile opens
	withheld = "203.0.113.9" // in what it leaves out of that network
	beyond   = "198.51.100.1"
)

// TestProfilesNetwork: what a profile opens for its sessions is open, by packets from inside of their pods, and nothing else is.
func TestProfilesNetwork(t *testing.T) {
	const port, otherPort = 7001, 7002
	for _, address := range []string{granted, withheld, beyond} {
		serve(t, address, port)
		serve(t, address, otherPort)
	}
	serveMetadata(t)
	boss := admin(t)
	for _, p := range []api.Profile{
		{Name: "opens", Agent: api.Agent{Kind: "demo"}, Pod: api.Pod{Egress: []api.EgressRule{
			{CIDR: "203.0.113.0/24", Except: []string{withheld + "/32"}, Ports: []int{port}},
			{CIDR: "0.0.0.0/0", Ports: []int{80}},             // clouds' metadata is left out of it by the yard
			{CIDR: "10.244.0.0/16", Ports: []int{8080, 8081}}, // pods
		}}},
		{Name: "shows", Agent: api.Agent{Kind: "demo"}, Pod: api.Pod{Service: &api.PodService{Ports: []int{8080}, Namespaces: []string{sessionSpace}}}},
	} {
		boss.Must(t, http.MethodPost, "/api/v1/profiles", p, nil)
		t.Cleanup(func() { _, _, _ = boss.Do(context.Background(), http.MethodDelete, "/api/v1/profiles/"+p.Name, nil) })
	}
	opens := boss.Session(t, api.CreateSessionRequest{Profile: "opens"})
	plain := boss.Session(t, api.CreateSessionRequest{Agent: &api.Agent{Kind: "demo"}})
	shows := boss.Session(t, api.CreateSessionRequest{Profile: "shows"})

	t.Run("egress", func(t *testing.T) {
		// The enforcer follows the cluster.
		eventually(t, "what is opened is open", func() bool { return reaches(t, boss, opens.ID, granted, port) })
		eventually(t, "a session of another profile is held", func() bool { return !reaches(t, boss, plain.ID, granted, port) })
		for _, c := range []struct {
			what    string
			session string
			host    string
			port    int
			want    bool
		}{
			{"what is opened", opens.ID, granted, port, true},
			{"another port", opens.ID, granted, otherPort, false},
			{"what is left out of the network", opens.ID, withheld, port, false},
			{"another network", opens.ID, beyond, port, false},
			{"the metadata address", opens.ID, metadataAddress, 80, false},
			{"another profile's network", plain.ID, granted, port, false},
			{"nothing at all", plain.ID, beyond, port, false},
		} {
			if got := reaches(t, boss, c.session, c.host, c.port); got != c.want {
				t.Errorf("%s: %s:%d is reached: %v, want %v", c.what, c.host, c.port, got, c.want)
			}
		}
	})
	t.Run("service", func(t *testing.T) {
		for _, s := range []api.Session{shows, plain} {
			for _, p := range []string{"8080", "8081"} {
				transcript(t, boss, s.ID, "run /bin/busybox httpd -p "+p+" -h .")
			}
		}
		name := shows.ID + "." + sessionSpace + ".svc.cluster.local"
		eventually(t, "it is reached by its name", func() bool { return reaches(t, boss, opens.ID, name, 8080) })
		for what, at := range map[string]struct {
			host string
			port int
		}{
			"another port of it":              {name, 8081},
			"a session that is shown to none": {podOf(t, plain.ID).Status.PodIP, 8080},
		} {
			if reaches(t, boss, opens.ID, at.host, at.port) {
				t.Errorf("%s is reached", what)
			}
		}
		if got := transcript(t, boss, plain.ID, "run /bin/busybox wget -q -O - http://127.0.0.1:8080/ 2>&1; echo done-$((1+1))"); !strings.Contains(got, "404") || !strings.Contains(got, "done-2") {
			t.Errorf("the server that is not reached does not answer its own pod: %q", got) // so that the test above can fail
		}
	})
	end(t, boss, opens.ID, plain.ID, shows.ID)
}
