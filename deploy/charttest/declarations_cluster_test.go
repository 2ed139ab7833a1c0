//go:build cluster

package charttest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// wrongDeclaration is the spec of an object, and what the API server says of it.
type wrongDeclaration struct{ kind, name, spec, want string }

// The API server refuses what is wrong by itself, before anybody follows it.
func TestDefinitionsOnTheServer(t *testing.T) {
	k := startKubernetes(t)
	k.must(t, "", "create", "namespace", "team-a")
	k.must(t, "", "create", "namespace", "yard")
	k.must(t, "", "create", "namespace", "agentyard-sessions")
	var rights []Object
	for _, o := range declared(t) {
		switch {
		case o.Kind() == "CustomResourceDefinition":
			k.must(t, o.Text, "apply", "--server-side", "-f", "-")
			k.must(t, "", "wait", "--for=condition=Established", "--timeout=5m", "crd/"+o.Name())
		case strings.Contains(o.File, "role") || o.Kind() == "ServiceAccount":
			rights = append(rights, o)
		}
	}
	object := func(kind, name, spec string) string {
		return fmt.Sprintf("---\n{apiVersion: agentyard.dev/v1alpha1, kind: %s, metadata: {name: %s, namespace: team-a}, spec: %s}\n", kind, name, spec)
	}
	const long = "a234567890123456789012345678901234567890"
	t.Run("takes what is right", func(t *testing.T) {
		out := k.must(t, object("Session", "plain", "{}")+
			object("Session", "full", `{profile: default, title: One, prompt: "echo hello", repository: {url: "https://github.com/a/b.git", ref: main, depth: -1},
  env: {A_B: x, _c: ""}, labels: {team/x: red}, ttl: 8h, idleTimeout: 1h30m, agent: {kind: demo, command: [a], args: ["", b]}}`)+
			object("Session", "scp", `{repository: {url: "git@github.com:a/b.git"}}`)+
			object("SessionProfile", "plain", "{agent: {kind: demo}}")+
			object("SessionProfile", "full", `{description: x, agent: {kind: claude}, env: {A: b}, resources: {cpus: 0.5, memoryBytes: 16777216, processes: 16}, ttl: 1h, idleTimeout: 90s, idleAction: stop,
  secrets: [{name: KEY, env: KEY}, {name: file, scope: tenant, file: .config/x/y, optional: true}],
  mcpServers: [{name: a, command: b, args: [c], env: {D: "${secret:E}"}}, {name: f, type: http, url: "https://example.com/mcp", headers: {Authorization: x}}],
  credentials: {files: [.claude/x]}, isolation: [user, pid], roles: [admin], image: "example.com/x:1",
  pod: {pullSecrets: [a], runtimeClass: gvisor, nodeSelector: {a/b: c}, tolerations: [{operator: Exists}, {key: a, value: b, effect: NoSchedule}], devices: {nvidia.com/gpu: 1},
    requests: {cpus: 0.1}, volume: {bytes: 1048576, storageClass: fast, keep: true}, writableRoot: true, labels: {a: b}, annotations: {c: d},
    config: {a.json: "{}"}, collector: true, egress: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16], ports: [443]}, {cidr: "2001:db8::/32"}], service: {ports: [80], namespaces: [a]}},
  pool: {size: 0, burst: 1, timezone: UTC, schedule: [{days: [mon], from: "08:00", to: "18:30"}]}}`),
			"apply", "--server-side", "--validate=strict", "--dry-run=server", "-f", "-")
		if n := strings.Count(out, "(server dry run)"); n != 5 {
			t.Errorf("took %d:\n%s", n, out)
		}
	})
	t.Run("refuses what is wrong", func(t *testing.T) {
		wrong := []wrongDeclaration{
			{"Session", strings.Repeat("a", 64), "{}", "at most 63"},
			{"Session", "profile-name", "{profile: Big}", "spec.profile"},
			{"Session", "profile-long", "{profile: " + long + "a}", "spec.profile"},
			{"Session", "title-lines", `{title: "a\nb"}`, "spec.title"},
			{"Session", "no-url", "{repository: {ref: main}}", "spec.repository.url: Required"},
			{"Session", "scheme", `{repository: {url: "ftp://x/y"}}`, "must be a URL"},
			{"Session", "option", `{repository: {url: "--upload-pack=x"}}`, "must be a URL"},
			{"Session", "password", `{repository: {url: "https://me:secret@x/y"}}`, "must not hold a password"},
			{"Session", "ref-option", `{repository: {url: "https://x/y", ref: "-x"}}`, "spec.repository.ref"},
			{"Session", "depth", `{repository: {url: "https://x/y", depth: -2}}`, "spec.repository.depth"},
			{"Session", "env-name", "{env: {1A: x}}", "a variable has a name"},
			{"Session", "env-dash", "{env: {a-b: x}}", "a variable has a name"},
			{"Session", "env-loader", "{env: {LD_PRELOAD: x}}", "are reserved"},
			{"Session", "env-ours", "{env: {agentyard_x: x}}", "are reserved"},
			{"Session", "label-ours", "{labels: {agentyard.dev/x: v}}", "are reserved"},
			{"Session", "label-key", `{labels: {"a b": v}}`, "a key is 1 to 63"},
			{"Session", "ttl-short", "{ttl: 500ms}", "between 1s and 8784h"},
			{"Session", "ttl-long", "{ttl: 9000h}", "between 1s and 8784h"},
			{"Session", "ttl-text", "{ttl: soon}", "spec.ttl"},
			{"Session", "idle-negative", `{idleTimeout: "-1h"}`, "spec.idleTimeout"},
			{"Session", "command", `{agent: {command: [""]}}`, "must begin with a program"},
			{"Session", "tenant", "{tenant: other}", `unknown field "spec.tenant"`},
			{"Session", "owner", "{owner: ux}", `unknown field "spec.owner"`},
			{"Session", "wait", "{wait: running}", `unknown field "spec.wait"`},
			{"SessionProfile", long + "b", "{agent: {kind: demo}}", "must be 1 to 40"},
			{"SessionProfile", "a.b", "{agent: {kind: demo}}", "must be 1 to 40"},
			{"SessionProfile", "agentless", "{}", "spec.agent: Required"},
			{"SessionProfile", "kindless", "{agent: {}}", "spec.agent.kind: Required"},
			{"SessionProfile", "cpus", "{agent: {kind: demo}, resources: {cpus: -1}}", "resources.cpus"},
			{"SessionProfile", "memory", "{agent: {kind: demo}, resources: {memoryBytes: 1024}}", "at least 16 MiB"},
			{"SessionProfile", "processes", "{agent: {kind: demo}, resources: {processes: 3}}", "at least 16"},
			{"SessionProfile", "idle-action", "{agent: {kind: demo}, idleAction: explode}", "idleAction"},
			{"SessionProfile", "secret", "{agent: {kind: demo}, secrets: [{name: A}]}", "an env or a file"},
			{"SessionProfile", "secret-path", "{agent: {kind: demo}, secrets: [{name: A, file: ../x}]}", "below the home"},
			{"SessionProfile", "secret-root", "{agent: {kind: demo}, secrets: [{name: A, file: /etc/x}]}", "below the home"},
			{"SessionProfile", "mcp-none", "{agent: {kind: demo}, mcpServers: [{name: a}]}", "a stdio server has a command"},
			{"SessionProfile", "mcp-both", `{agent: {kind: demo}, mcpServers: [{name: a, type: http, url: "https://x", command: z}]}`, "a stdio server has a command"},
			{"SessionProfile", "mcp-env", "{agent: {kind: demo}, mcpServers: [{name: a, command: b, env: {LD_X: v}}]}", "are reserved"},
			{"SessionProfile", "isolation", "{agent: {kind: demo}, isolation: [magic]}", "isolation"},
			{"SessionProfile", "role", "{agent: {kind: demo}, roles: [root]}", "roles"},
			{"SessionProfile", "toleration", "{agent: {kind: demo}, pod: {tolerations: [{value: x}]}}", "a key or the operator Exists"},
			{"SessionProfile", "toleration-value", "{agent: {kind: demo}, pod: {tolerations: [{operator: Exists, value: x}]}}", "Exists has no value"},
			{"SessionProfile", "volume", "{agent: {kind: demo}, pod: {volume: {bytes: 1}}}", "volume.bytes"},
			{"SessionProfile", "pod-label", "{agent: {kind: demo}, pod: {labels: {agentyard.dev/session: x}}}", "a key is 1 to 63"},
			{"SessionProfile", "device", "{agent: {kind: demo}, pod: {devices: {nvidia.com/gpu: 0}}}", "devices"},
			{"SessionProfile", "config", `{agent: {kind: demo}, pod: {config: {"a/b": x}}}`, "a key is 1 to 63"},
			{"SessionProfile", "egress-name", "{agent: {kind: demo}, pod: {egress: [{cidr: example.com}]}}", "must be a network"},
			{"SessionProfile", "egress-host", "{agent: {kind: demo}, pod: {egress: [{cidr: 10.1.2.3/8}]}}", "must be a network"},
			{"SessionProfile", "egress-except", "{agent: {kind: demo}, pod: {egress: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]}}", "within the cidr"},
			{"SessionProfile", "egress-port", "{agent: {kind: demo}, pod: {egress: [{cidr: 10.0.0.0/8, ports: [0]}]}}", "ports[0]"},
			{"SessionProfile", "service-port", "{agent: {kind: demo}, pod: {service: {ports: [9000], namespaces: [a]}}}", "the runner's own"},
			{"SessionProfile", "service-open", "{agent: {kind: demo}, pod: {service: {ports: [80]}}}", "service.namespaces: Required"},
			{"SessionProfile", "pool-empty", "{agent: {kind: demo}, pool: {size: 0}}", "1 to 500 together"},
			{"SessionProfile", "pool-large", "{agent: {kind: demo}, pool: {size: 400, burst: 400}}", "1 to 500 together"},
			{"SessionProfile", "pool-window", `{agent: {kind: demo}, pool: {size: 1, schedule: [{from: "8", to: "25:00"}]}}`, "schedule"},
			{"SessionProfile", "rev", "{agent: {kind: demo}, rev: 3}", `unknown field "spec.rev"`},
		}
		var all strings.Builder
		for _, w := range wrong {
			all.WriteString(object(w.kind, w.name, w.spec))
		}
		out, err := k.kubectl(t, all.String(), "create", "--validate=strict", "--dry-run=server", "-f", "-")
		if err == nil || strings.Contains(out, "created") {
			t.Errorf("took some of it: %v\n%s", err, out)
		}
		for _, w := range wrong {
			if strings.HasPrefix(w.want, "unknown field") && strings.Contains(out, w.want) {
				continue // which names no object
			}
			if !slices.ContainsFunc(said(out, w), func(line string) bool { return strings.Contains(line, w.want) }) {
				t.Errorf("%s %s: %q, want %q", w.kind, w.name, said(out, w), w.want)
			}
		}
	})
	t.Run("what a session is made from cannot change", func(t *testing.T) {
		base := map[string]string{
			"profile": "a", "prompt": "a", "repository": `{url: "https://x/y"}`, "env": "{A: b}", "agent": "{kind: demo}",
			"title": "a", "labels": "{a: b}", "ttl": "1h", "idleTimeout": "1h",
		}
		next := map[string]string{
			"profile": "b", "prompt": "b", "repository": `{url: "https://x/z"}`, "env": "{A: c}", "agent": "{kind: claude}",
			"title": "b", "labels": "{a: c}", "ttl": "2h", "idleTimeout": "2h",
		}
		var first, changed, dropped, added strings.Builder
		for field, value := range base {
			name := strings.ToLower(field)
			first.WriteString(object("Session", name, "{"+field+": "+value+"}") + object("Session", name+"-none", "{}"))
			changed.WriteString(object("Session", name, "{"+field+": "+next[field]+"}"))
			dropped.WriteString(object("Session", name, "{}"))
			added.WriteString(object("Session", name+"-none", "{"+field+": "+value+"}"))
		}
		k.must(t, first.String(), "create", "-f", "-")
		for how, text := range map[string]string{"changed": changed.String(), "dropped": dropped.String(), "added": added.String()} {
			out, err := k.kubectl(t, text, "replace", "--validate=strict", "--dry-run=server", "-f", "-")
			if n := strings.Count(out, "cannot change"); err == nil || n != 5 || strings.Count(out, " replaced") != 4 {
				t.Errorf("%s: %v: %d were refused:\n%s", how, err, n, out)
			}
		}
	})
	t.Run("the service may do what it must there, and no more", func(t *testing.T) {
		k.must(t, string(Manifest(rights)), "apply", "--server-side", "-f", "-")
		for call, want := range map[string]string{
			"list sessions.agentyard.dev": "yes", "watch sessionprofiles.agentyard.dev": "yes", "patch sessions.agentyard.dev": "yes",
			"patch sessions.agentyard.dev status": "yes", "patch sessionprofiles.agentyard.dev status": "yes",
			"create sessions.agentyard.dev": "no", "delete sessions.agentyard.dev": "no", "get secrets": "no", "list pods": "no", "create pods": "no",
		} {
			words := strings.Fields(call)
			args := []string{"auth", "can-i", words[0], words[1], "-n", "team-a", "--as", "system:serviceaccount:yard:agentyard-sessions"}
			if len(words) == 3 {
				args = append(args, "--subresource", words[2])
			}
			if out, _ := k.kubectl(t, "", args...); lastWord(out) != want {
				t.Errorf("%s: %s, want %s", call, out, want)
			}
		}
	})
}

// said returns the lines about one object.
func said(out string, w wrongDeclaration) (lines []string) {
	about := false
	for line := range strings.Lines(out) {
		switch {
		case strings.HasPrefix(line, "Error ") || strings.HasPrefix(line, "The ") || strings.HasPrefix(line, "error"):
			about = strings.Contains(line, `"`+w.name+`"`) || strings.Contains(line, "name: "+w.name)
		}
		if about {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}
