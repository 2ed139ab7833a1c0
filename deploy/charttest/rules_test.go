package charttest

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	values := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// each runs check on each object of each arrangement.
func each(t *testing.T, check func(t *testing.T, o Object)) {
	t.Helper()
	for _, a := range arrangements {
		t.Run(a.name, func(t *testing.T) {
			for _, o := range a.objects(t) {
				check(t, o)
			}
		})
	}
}

// podSpec returns the pod that an object makes, if it makes any.
func podSpec(o Object) map[string]any {
	switch o.Kind() {
	case "Pod":
		return asMap(o.Tree["spec"])
	case "Deployment", "StatefulSet", "DaemonSet", "Job":
		return asMap(dig(o.Tree, "spec", "template", "spec"))
	}
	return nil
}

func asMap(v any) map[string]any { m, _ := v.(map[string]any); return m }

func asList(v any) []map[string]any {
	var out []map[string]any
	list, _ := v.([]any)
	for _, e := range list {
		out = append(out, asMap(e))
	}
	return out
}

func TestPodsAreRestricted(t *testing.T) {
	each(t, func(t *testing.T, o Object) {
		pod := podSpec(o)
		if pod == nil {
			return
		}
		// Live update replaces a service's binary, in development only.
		dev := strings.HasSuffix(t.Name(), "/agentyard-dev") && o.Kind() == "Deployment" && o.Name() != "agentyard-redis"
		at := o.Kind() + " " + o.Name()
		if o.Kind() == "DaemonSet" { // the node agent, which is off by default, has the privileges of TestNodeAgent
			pod = maps.Clone(pod)
			for _, field := range []string{"hostNetwork", "hostPID", "volumes"} {
				delete(pod, field)
			}
		}
		for _, field := range []string{"hostNetwork", "hostPID", "hostIPC"} {
			if pod[field] == true {
				t.Errorf("%s: %s", at, field)
			}
		}
		if o.Kind() != "DaemonSet" && dig(pod, "securityContext", "runAsNonRoot") != true || dig(pod, "securityContext", "seccompProfile", "type") != "RuntimeDefault" {
			t.Errorf("%s: not runAsNonRoot with seccomp RuntimeDefault", at)
		}
		if _, said := pod["automountServiceAccountToken"].(bool); !said {
			t.Errorf("%s: does not say whether it has a token", at)
		}
		for _, v := range asList(pod["volumes"]) {
			if v["hostPath"] != nil {
				t.Errorf("%s: volume %s is the node's", at, v["name"])
			}
		}
		for _, c := range append(asList(pod["containers"]), asList(pod["initContainers"])...) {
			at := at + ", container " + text(c["name"])
			if dig(c, "securityContext", "allowPrivilegeEscalation") != false || dig(c, "securityContext", "readOnlyRootFilesystem") != !dev {
				t.Errorf("%s: may gain privileges or write its root", at)
			}
			if o.Kind() != "DaemonSet" && fmt.Sprint(dig(c, "securityContext", "capabilities")) != "map[drop:[ALL]]" {
				t.Errorf("%s: has capabilities %v", at, dig(c, "securityContext", "capabilities"))
			}
			for _, part := range []string{"requests", "limits"} {
				for _, what := range []string{"cpu", "memory"} {
					if dig(c, "resources", part, what) == nil {
						t.Errorf("%s: resources.%s.%s is not set", at, part, what)
					}
				}
			}
			if strings.HasSuffix(text(c["image"]), ":latest") || !strings.Contains(text(c["image"]), ":") {
				t.Errorf("%s: image %v has no tag of its own", at, c["image"])
			}
			if o.Kind() == "Job" || o.Kind() == "Pod" || c["name"] == "reloader" {
				continue // they serve nothing that could be asked
			}
			for _, probe := range []string{"startupProbe", "livenessProbe", "readinessProbe"} {
				if c[probe] == nil {
					t.Errorf("%s: no %s", at, probe)
				}
			}
		}
	})
}

// The node agent has what it needs to set queueing disciplines in sessions' network namespaces, and runs only where it is asked for.
func TestNodeAgent(t *testing.T) {
	for _, a := range arrangements {
		for _, o := range a.objects(t) {
			if o.Kind() != "DaemonSet" {
				continue
			}
			if a.name != "agentyard-everything" && a.name != "tcagent" {
				t.Errorf("%s runs %s", a.name, o.Name())
			}
			paths, added := "[/var/lib/agentyard/tcagent]", "[NET_ADMIN SYS_ADMIN SYS_PTRACE]"
			if a.name == "agentyard-everything" { // which asks for it
				paths, added = "[/var/lib/agentyard/tcagent /run/containerd /dev/net/tun]", "[NET_ADMIN SYS_ADMIN SYS_PTRACE NET_RAW]"
			}
			pod := podSpec(o)
			var volumes []string
			for _, v := range asList(pod["volumes"]) {
				if v["hostPath"] != nil {
					volumes = append(volumes, text(dig(v, "hostPath", "path")))
				}
			}
			if got := fmt.Sprint(volumes, pod["hostNetwork"], pod["hostPID"], pod["hostIPC"], pod["automountServiceAccountToken"]); got != paths+" true true <nil> false" {
				t.Errorf("%s: of the node it has %s", a.name, got)
			}
			for _, c := range asList(pod["containers"]) {
				if got := fmt.Sprint(dig(c, "securityContext")); got != "map[allowPrivilegeEscalation:false capabilities:map[add:"+added+" drop:[ALL]] readOnlyRootFilesystem:true]" {
					t.Errorf("%s: %s", a.name, got)
				}
			}
		}
	}
}

// A Secret's value belongs into a Secret that the keys job or the operator makes: no template renders one, and what a ConfigMap or
// a variable holds is no secret.
func TestNoSecretIsRendered(t *testing.T) {
	each(t, func(t *testing.T, o Object) {
		if o.Kind() == "Secret" {
			t.Errorf("%s renders the Secret %s", o.File, o.Name())
		}
		if o.Kind() == "ConfigMap" {
			for key, value := range asMap(o.Tree["data"]) {
				if found := secretIn(text(value)); found != "" {
					t.Errorf("ConfigMap %s, %s: %s", o.Name(), key, found)
				}
			}
		}
		for _, c := range asList(podSpec(o)["containers"]) {
			for _, env := range asList(c["env"]) {
				if found := secretIn(text(env["value"])); found != "" {
					t.Errorf("%s %s, variable %s: %s", o.Kind(), o.Name(), env["name"], found)
				}
			}
		}
	})
	t.Run("and one would be found", func(t *testing.T) {
		for _, s := range []string{
			"requirepass hunter2", "redis://:hunter2@host/0", "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY",
			"-----BEGIN PRIVATE KEY-----", "ay_" + strings.Repeat("a", 10) + "_" + strings.Repeat("b", 47), base64.StdEncoding.EncodeToString([]byte("eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ")),
		} {
			if secretIn("x: "+s) == "" {
				t.Errorf("%q is not found", s)
			}
		}
	})
}

// declarations are the rights where Session objects are followed.
var declarations = []string{
	"list,watch,patch sessions,sessionprofiles.agentyard.dev",
	"patch sessions/status,sessionprofiles/status.agentyard.dev",
}

// roles are the charts' rights, all of them.
var roles = map[string][]string{
	"agentyard-sessions in agentyard-sessions": {
		"get,list,watch,create,patch,delete pods",
		"list,watch,create,patch,delete persistentvolumeclaims",
		"create configmaps",
		"create,patch services",
		"create networkpolicies.networking.k8s.io",
		"list events",
	},
	"agentyard-sessions-declarations in team-a": declarations,
	"agentyard-sessions-declarations in team-b": declarations,
	"agentyard-keys in yard": {
		"get,update secrets of [agentyard-keyring agentyard-gateway-bus agentyard-auth-bus agentyard-sessions-bus agentyard-scheduler-bus agentyard-tcagent-bus agentyard-tcnode-bus agentyard-nats-trust agentyard-sessions-secrets agentyard-scheduler-secrets agentyard-auth agentyard-admin agentyard-redis]",
		"create secrets",
	},
}

func TestRights(t *testing.T) {
	for _, a := range arrangements {
		t.Run(a.name, func(t *testing.T) {
			subjects := map[string][]string{}
			for _, o := range a.objects(t) {
				switch o.Kind() {
				case "ClusterRole", "ClusterRoleBinding":
					t.Errorf("%s %s: nothing needs a right in the whole cluster", o.Kind(), o.Name())
				case "Role":
					name := o.Name() + " in " + text(dig(o.Tree, "metadata", "namespace"))
					var got []string
					for _, r := range asList(o.Tree["rules"]) {
						got = append(got, rule(r))
					}
					if !slices.Equal(got, roles[name]) {
						t.Errorf("role %s:\n  %s\nwant\n  %s", name, strings.Join(got, "\n  "), strings.Join(roles[name], "\n  "))
					}
				case "RoleBinding":
					for _, s := range asList(o.Tree["subjects"]) {
						subjects[text(s["name"])] = append(subjects[text(s["name"])], text(dig(o.Tree, "roleRef", "name")))
						if s["namespace"] != "yard" {
							t.Errorf("%s gives rights to an account in %v", o.Name(), s["namespace"])
						}
					}
				}
			}
			for account := range subjects {
				if account != "agentyard-keys" && account != "agentyard-sessions" {
					t.Errorf("%s has the roles %v; it needs none", account, subjects[account])
				}
			}
			for _, o := range a.objects(t) { // a token is where a right is, and nowhere else
				pod := podSpec(o)
				if pod == nil {
					continue
				}
				account := text(pod["serviceAccountName"])
				if token := pod["automountServiceAccountToken"] == true; token != (subjects[account] != nil) {
					t.Errorf("%s %s: token %v, rights %v", o.Kind(), o.Name(), token, subjects[account])
				}
			}
		})
	}
}

// rule is a rule in one line.
func rule(r map[string]any) string {
	join := func(key string) string {
		var all []string
		list, _ := r[key].([]any)
		for _, e := range list {
			all = append(all, text(e))
		}
		return strings.Join(all, ",")
	}
	s := join("verbs") + " " + join("resources")
	if g := join("apiGroups"); g != "" {
		s += "." + g
	}
	if names, ok := r["resourceNames"]; ok {
		s += fmt.Sprint(" of ", names)
	}
	return s
}

// Every variable that a chart sets is one that the service reads.
func TestVariablesAreFlags(t *testing.T) {
	for _, service := range Services {
		t.Run(service, func(t *testing.T) { variablesAreFlags(t, service) })
	}
}

func variablesAreFlags(t *testing.T, service string) {
	known := map[string]bool{}
	for _, f := range flags(t, service) {
		known[f.Variable] = true
	}
	for _, a := range arrangements {
		for _, o := range a.objects(t) {
			if asMap(dig(o.Tree, "metadata", "labels"))["app.kubernetes.io/name"] != service {
				continue
			}
			for _, c := range asList(podSpec(o)["containers"]) {
				for _, env := range asList(c["env"]) {
					if name := text(env["name"]); strings.HasPrefix(name, "AGENTAPI_") && !known[name] {
						t.Errorf("%s: %s sets %s, which %s does not read", a.name, o.File, name, service)
					}
				}
			}
		}
	}
}

// What the charts decide reaches the services.
func TestDecidedFlagsAreSet(t *testing.T) {
	set := map[string]bool{}
	for _, a := range arrangements {
		for _, o := range a.objects(t) {
			for _, c := range asList(podSpec(o)["containers"]) {
				for _, env := range asList(c["env"]) {
					set[text(env["name"])] = true
				}
			}
		}
	}
	for _, service := range slices.Sorted(maps.Keys(decided)) {
		for _, f := range decided[service] {
			name := "AGENTAPI_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(f))
			if !set[name] {
				t.Errorf("no arrangement sets %s", name)
			}
		}
	}
}

// The values that the sessions service is deployed with name what the chart makes.
func TestSessionsAccountExists(t *testing.T) {
	var account, namespace string
	made := map[string]bool{}
	for _, o := range (arrangement{name: "names", chart: "agentyard"}).objects(t) {
		made[o.Kind()+" "+text(dig(o.Tree, "metadata", "namespace"))+"/"+o.Name()] = true
		for _, c := range asList(podSpec(o)["containers"]) {
			for _, env := range asList(c["env"]) {
				switch env["name"] {
				case "AGENTAPI_KUBE_SERVICE_ACCOUNT":
					account = text(env["value"])
				case "AGENTAPI_KUBE_NAMESPACE":
					namespace = text(env["value"])
				}
			}
		}
	}
	if !made["ServiceAccount "+namespace+"/"+account] || !made["Namespace /"+namespace] {
		t.Errorf("the chart does not make the account %s in the namespace %s", account, namespace)
	}
}

// TestWhoAsksRunners: the gateway passes requests on to the runners in sessions' pods, and the scheduler asks them for a task's files and has them push its branch. Both ends
// of that are let through, and no other service.
func TestWhoAsksRunners(t *testing.T) {
	const port = "9000"
	for _, a := range arrangements {
		if a.chart != "agentyard" {
			continue // has one end only
		}
		t.Run(a.name, func(t *testing.T) {
			var out, in []string
			policies := 0
			for _, o := range a.objects(t) {
				if o.Kind() != "NetworkPolicy" {
					continue
				}
				policies++
				for _, rule := range asList(dig(o.Tree, "spec", "egress")) {
					if opens(rule, port) && peers(rule, "to")["agentyard-session"] {
						out = append(out, text(dig(o.Tree, "spec", "podSelector", "matchLabels", "app.kubernetes.io/name")))
					}
				}
				for _, rule := range asList(dig(o.Tree, "spec", "ingress")) {
					if opens(rule, port) {
						in = slices.AppendSeq(in, maps.Keys(peers(rule, "from")))
					}
				}
			}
			if policies == 0 {
				return
			}
			want := []string{"gateway", "scheduler"}
			if slices.Sort(out); !slices.Equal(out, want) {
				t.Errorf("%v may ask runners, want %v", out, want)
			}
			if slices.Sort(in); !slices.Equal(in, want) {
				t.Errorf("runners may be asked by %v, want %v", in, want)
			}
		})
	}
}

// opens reports whether a rule of a network policy names a port.
func opens(rule map[string]any, port string) bool {
	return slices.ContainsFunc(asList(rule["ports"]), func(p map[string]any) bool { return fmt.Sprint(p["port"]) == port })
}

// peers are the parts of the yard that a rule of a network policy names.
func peers(rule map[string]any, end string) map[string]bool {
	names := map[string]bool{}
	for _, p := range asList(rule[end]) {
		if name := text(dig(p, "podSelector", "matchLabels", "app.kubernetes.io/name")); name != "" {
			names[name] = true
		}
	}
	return names
}

// TestServiceLabel: what Prometheus's operator finds by a Service gets a label "service" with that one's name, and ours of the same name, by which alerts go, would be
// put aside as "exported_service".
func TestServiceLabel(t *testing.T) {
	found := false
	each(t, func(t *testing.T, o Object) {
		if o.Kind() != "ServiceMonitor" {
			return
		}
		found = true
		for _, e := range asList(dig(o.Tree, "spec", "endpoints")) {
			if e["honorLabels"] != true {
				t.Errorf("%s: the labels of metrics are not kept", o.Name())
			}
		}
	})
	if !found {
		t.Error("no arrangement has a ServiceMonitor")
	}
}
