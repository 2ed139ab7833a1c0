package charttest

import (
	"strings"
	"testing"
)

// Runners trust what the operator gives, by one ConfigMap that is there.
func TestRunnerCA(t *testing.T) {
	for more, want := range map[string]struct{ flag, made string }{
		"":                                     {},
		"runner: {ca: {bundle: certificates}}": {"agentyard-runner-ca", "certificates"},
		"runner: {ca: {configMap: theirs}}":    {"theirs", ""},
		"runner: {ca: {configMap: theirs, bundle: certificates}}": {"theirs", ""},
	} {
		var flag, made string
		for _, o := range (arrangement{name: "ca", chart: "sessions", more: "global: {yard: agentyard}\n" + more}).objects(t) {
			switch {
			case o.Kind() == "ConfigMap" && strings.HasSuffix(o.File, "runnerca.yaml"):
				made = text(dig(o.Tree, "data", "ca.crt"))
				if o.Name() != want.flag || text(dig(o.Tree, "metadata", "namespace")) != "agentyard-sessions" {
					t.Errorf("%s: made %s in %v", more, o.Name(), dig(o.Tree, "metadata", "namespace"))
				}
			case o.Kind() == "Deployment":
				if _, rest, ok := strings.Cut(o.Text, "AGENTAPI_KUBE_CA_CONFIGMAP\n"); ok {
					flag = strings.Trim(strings.TrimPrefix(strings.TrimSpace(strings.Split(rest, "\n")[0]), "value:"), ` "`)
				}
			}
		}
		if flag != want.flag || made != want.made {
			t.Errorf("%s: the service is told of %q, and the ConfigMap holds %q", more, flag, made)
		}
	}
}
