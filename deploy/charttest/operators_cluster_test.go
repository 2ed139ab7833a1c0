//go:build cluster

package charttest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// operators are modules (of operators/go.mod) with definitions of what a cluster has only with somebody's operator, and where these are.
var operators = map[string][]string{
	"github.com/cert-manager/cert-manager": {"deploy/crds/cert-manager.io_certificates.yaml"},
	"github.com/prometheus-operator/prometheus-operator": {
		"example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml", "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
		"example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
	},
	"sigs.k8s.io/gateway-api": {"config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"},
}

// define gives the cluster the operators' own definitions, in the versions of operators/go.mod.
func (k *kubernetes) define(t *testing.T) {
	t.Helper()
	args := []string{"mod", "download", "-json"}
	for module := range operators {
		args = append(args, module)
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = "operators"
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("have the operators' definitions: %v\n%s", err, out)
	}
	files := 0
	for in := json.NewDecoder(bytes.NewReader(out)); ; {
		var module struct{ Path, Dir string }
		if err := in.Decode(&module); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, file := range operators[module.Path] {
			k.must(t, "", "apply", "--server-side", "-f", filepath.Join(module.Dir, filepath.FromSlash(file)))
			files++
		}
	}
	if files != 5 {
		t.Fatalf("%d definitions", files)
	}
	k.must(t, "", "wait", "--for=condition=Established", "--timeout=5m", "customresourcedefinitions", "--all")
}
