package tc_test

import (
	"errors"
	"fmt"
	"time"

	"agentyard.dev/libs/tc"
)

const office = `
name: office
applies_to: {tenant: acme}
link:
  download: {ceiling: 50Mbit}
  upload: {ceiling: 20Mbit}
classes:
  - name: model
    guarantee: 10Mbit
    latency_target: 10ms
    match:
      - {cidr: 192.0.2.0/24, ports: [443], protocol: tcp}
  - name: rest
    default: true
    priority: 5
`

func ExampleParse() {
	policy, err := tc.Parse([]byte(office))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(policy.Name, policy.Link.Download.Ceiling, policy.Classes[0].Match[0].CIDR)
	// Output: office 50Mbit 192.0.2.0/24
}

// Everything that is wrong is said at once, with its line and what to do.
func ExampleParse_problems() {
	_, err := tc.Parse([]byte(`
name: p
link: {download: {ceiling: 50Mbps}}
classes:
  - {name: a, guarantee: 2Mbit, ceiling: 1Mbit, match: [{}]}
`))
	var problems tc.Problems
	if errors.As(err, &problems) {
		for _, p := range problems {
			fmt.Println(p)
		}
	}
	// Output:
	// line 3: /link/download/ceiling: rate "50Mbps" has the unknown unit "Mbps"; in tc, bps means bytes per second; write 50Mbit for bits, or eight times as much for bytes (unit)
	// line 5: /classes/0/guarantee: class a is guaranteed 2Mbit, more than its ceiling of 1Mbit; lower the guarantee to 1Mbit or raise the ceiling to 2Mbit (ceiling)
	// line 5: /classes/0/match/0: the match names no traffic; set cidr, ports, protocol or dscp, or leave it out and use the default class (empty-match)
	// line 5: /classes: no class is the default; set default: true at the class for all other traffic (default)
}

func ExampleNewPolicy() {
	policy, err := tc.NewPolicy("office").Tenant("acme").
		Download(50 * tc.Mbit).Upload(20 * tc.Mbit).
		Class(tc.Class{Name: "model", Guarantee: 10 * tc.Mbit, Match: []tc.Match{{CIDR: tc.CIDR("192.0.2.0/24"), Ports: []tc.PortRange{tc.Port(443)}}}}).
		Class(tc.Class{Name: "rest", Default: true}).
		Policy()
	if err != nil {
		fmt.Println(err)
		return
	}
	text, err := policy.YAML()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(string(text))
	// Output:
	// name: office
	// applies_to:
	//   tenant: acme
	// link:
	//   upload:
	//     ceiling: 20Mbit
	//   download:
	//     ceiling: 50Mbit
	// classes:
	//   - name: model
	//     guarantee: 10Mbit
	//     match:
	//       - cidr: 192.0.2.0/24
	//         ports: ["443"]
	//   - name: rest
	//     default: true
}

func ExamplePlan_Commands() {
	policy, err := tc.NewPolicy("small").Download(10 * tc.Mbit).Policy()
	if err != nil {
		fmt.Println(err)
		return
	}
	plan, _, err := tc.Compile([]tc.Policy{policy}, tc.Session{ID: "s1"}, tc.Capabilities{HTB: true, BFIFO: true, TicksPerSecond: 1000}, time.Now())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(plan.Commands(tc.Devices{Host: "veth7"}))
	// Output:
	// tc qdisc add dev veth7 root handle 1: htb default 100
	// tc class add dev veth7 parent 1: classid 1:1 htb rate 10000000bit ceil 10000000bit burst 2764b cburst 2764b quantum 1514
	// tc class add dev veth7 parent 1:1 classid 1:100 htb rate 10000000bit ceil 10000000bit burst 2764b cburst 2764b prio 0 quantum 1514
	// tc qdisc add dev veth7 parent 1:100 handle 100: bfifo limit 70000
}

// Effective says what holds for a session, and whose word it is.
func ExampleSet_Resolve() {
	tenant, err := tc.Parse([]byte(office))
	if err != nil {
		fmt.Println(err)
		return
	}
	alice, err := tc.NewPolicy("alice").Users("alice").Download(5 * tc.Mbit).Policy()
	if err != nil {
		fmt.Println(err)
		return
	}
	set, err := tc.NewSet([]tc.Policy{tenant, alice})
	if err != nil {
		fmt.Println(err)
		return
	}
	e := set.Resolve(tc.Session{ID: "s1", Tenant: "acme", User: "alice"}, time.Now())
	fmt.Println("download", e.Download.Ceiling.Value, "from", e.Download.Ceiling.From)
	fmt.Println("upload", e.Upload.Ceiling.Value, "from", e.Upload.Ceiling.From)
	fmt.Println("classes from", e.ClassesFrom)
	// Output:
	// download 5Mbit from alice
	// upload 20Mbit from office
	// classes from office
}
