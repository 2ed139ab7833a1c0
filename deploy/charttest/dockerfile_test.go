package charttest

import (
	"go/build"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The Dockerfile can build each image that the charts run, from a package that is a program.
func TestDockerfileBuildsEachImage(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(Root, "deploy", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	file := string(data)
	packages := map[string]string{} // by SERVICE
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z| ]+)\) package=(\S+) ;;$`).FindAllStringSubmatch(file, -1) {
		for service := range strings.SplitSeq(m[1], "|") {
			service = strings.TrimSpace(service)
			packages[service] = strings.ReplaceAll(m[2], "$SERVICE", service)
		}
	}
	for service, pkg := range packages {
		if p, err := build.ImportDir(filepath.Join(Root, pkg), 0); err != nil || p.Name != "main" {
			t.Errorf("SERVICE=%s: %s is not a program: %v", service, pkg, err)
		}
	}
	images := map[string]bool{"runner": true} // which the sessions service runs
	for _, o := range (arrangement{name: "images", chart: "agentyard", more: everything}).objects(t) {
		for _, c := range asList(podSpec(o)["containers"]) {
			if name, ours := strings.CutPrefix(text(c["image"]), "registry.example.com/yard/"); ours {
				name, _, _ = strings.Cut(name, ":")
				images[name] = true
			}
		}
	}
	if got, want := slices.Sorted(maps.Keys(packages)), slices.Sorted(maps.Keys(images)); !slices.Equal(got, want) {
		t.Errorf("the Dockerfile builds %q, the charts run %q", got, want)
	}
	for _, want := range []string{"CGO_ENABLED=0", "-trimpath", "GOOS=$TARGETOS GOARCH=$TARGETARCH", "--mount=type=cache,target=/root/.cache/go-build", "\nFROM scratch\n", "\nUSER 65532:65532\n"} {
		if !strings.Contains(file, want) {
			t.Errorf("the Dockerfile has no %q", want)
		}
	}
}
