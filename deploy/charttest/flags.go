package charttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// Services are the services that have a chart.
var Services = []string{"gateway", "auth", "sessions", "scheduler", "tccontroller", "tcagent"}

// packages is where a service's command is, when it is not services/<name>/cmd/<name>.
var packages = map[string]string{"tccontroller": "./services/tcagent/cmd/tccontroller"}

// Flag is one flag of a service, as its -h says.
type Flag struct {
	Name, Type, Usage, Variable string
}

// Build builds a service's command.
func Build(ctx context.Context, binary, service string) error {
	pkg, ok := packages[service]
	if !ok {
		pkg = "./services/" + service + "/cmd/" + service
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, pkg)
	cmd.Dir = Root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", service, err, out)
	}
	return nil
}

var flagLine = regexp.MustCompile(`(?m)^  -(\S+)(?: (\S+))?\n((?:        .*\n)+)`)
var aside = regexp.MustCompile(`(?s)^(.*) \((AGENTAPI_[A-Z0-9_]+)(?:, default .*)?\)$`)

// Flags asks a service's binary for its flags.
func Flags(ctx context.Context, binary string) ([]Flag, error) {
	out, err := exec.CommandContext(ctx, binary, "-h").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s -h: %w\n%s", binary, err, out)
	}
	var flags []Flag
	for _, m := range flagLine.FindAllStringSubmatch(string(out), -1) {
		usage := strings.Join(strings.Fields(m[3]), " ")
		a := aside.FindStringSubmatch(usage)
		if a == nil {
			return nil, fmt.Errorf("%s -h: the flag %s names no variable: %q", binary, m[1], usage)
		}
		flags = append(flags, Flag{Name: m[1], Type: m[2], Usage: a[1], Variable: a[2]})
	}
	if len(flags) == 0 {
		return nil, errors.New(binary + " -h lists no flags")
	}
	return flags, nil
}

// decided are the flags that the charts set themselves, from other values: there is no config for them.
var decided = map[string][]string{
	"":        {"admin-listen", "log.level", "log.format", "otel.endpoint", "stop-timeout", "bus.url", "bus.credentials", "bus.replicas", "redis.url"},
	"gateway": {"gateway.listen", "gateway.preview-listen", "gateway.public-url"},
	"auth":    {"auth.secret-file", "auth.bootstrap-key-file", "auth.ledger-replicas"},
	"sessions": {"sessions.replicas", "sessions.runtime", "sessions.issuer-file", "sessions.bus-url", "sessions.secret-keys-file",
		"kube.namespace", "kube.instance", "kube.service-account", "kube.image", "kube.pull-policy", "kube.declarations", "kube.declarations-url",
		"kube.network-policies", "kube.ca-configmap", "kube.collector-image", "kube.collector-endpoint"},
	"scheduler": {"scheduler.replicas", "scheduler.secret-keys-file"},
	"tcagent":   {"tcagent.node", "tcagent.data", "tcagent.cri", "tcagent.default"},
}

// pointless are flags that do nothing in a pod.
var pointless = map[string][]string{
	"sessions": {"sessions.data-dir", "sessions.socket-dir", "sessions.node", "sessions.uid-base", "sessions.uid-count", "sessions.network", "sessions.network-pool", "sessions.network-loopback", "sessions.network-hold", "kube.config"},
	"tcagent":  {"tcagent.proc", "tcagent.namespace"},
}

// schemas are the values that a flag's type takes. A flag that names its argument itself does not tell its type.
var schemas = map[string]string{
	"":         `type: [boolean, "null"]`,
	"int":      `type: [integer, "null"]`,
	"uint":     `type: [integer, "null"], minimum: 0`,
	"float":    `type: [number, "null"]`,
	"duration": `type: [string, "null"], pattern: "^(0|([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+)$"`,
	"string":   `type: [string, "null"]`,
	"value":    `type: [string, "null"]`,
}

// ConfigValues returns the config part of a service's values.yaml.
func ConfigValues(service string, flags []Flag) string {
	var b strings.Builder
	b.WriteString("# Flags of the service, each by its name; null leaves it to the service. Generated from its -h: go test ./deploy/charttest -update.\n")
	skip := slices.Concat(decided[""], decided[service], pointless[service])
	var body strings.Builder
	for _, f := range flags {
		if slices.Contains(skip, f.Name) {
			continue
		}
		schema, ok := schemas[f.Type]
		if !ok {
			schema = `type: [string, number, "null"]`
		}
		usage := strings.TrimSuffix(strings.ToUpper(f.Usage[:1])+f.Usage[1:], ".") + "."
		fmt.Fprintf(&body, "  # %s\n  # @schema %s\n  %s: null\n", usage, schema, f.Name)
	}
	if body.Len() == 0 {
		b.WriteString("# @schema additionalProperties: false\nconfig: {}\n")
	} else {
		b.WriteString("config:\n" + body.String())
	}
	return b.String()
}
