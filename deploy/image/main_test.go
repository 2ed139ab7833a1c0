package main

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the checkout, from which packages are named.
const root = "../.."

// TestSameAsDockerfile: what the Dockerfile builds for each SERVICE, this builds too. deploy/e2e builds and runs every one.
func TestSameAsDockerfile(t *testing.T) {
	file, err := os.ReadFile(filepath.Join(root, "deploy", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z| ]+)\) package=(\S+) ;;$`).FindAllStringSubmatch(string(file), -1) {
		for name := range strings.SplitSeq(m[1], "|") {
			name = strings.TrimSpace(name)
			packages[name] = strings.ReplaceAll(m[2], "$SERVICE", name)
		}
	}
	if len(packages) == 0 {
		t.Fatal("the Dockerfile names no package")
	}
	for name, pkg := range packages {
		if commands[name].pkg != pkg {
			t.Errorf("SERVICE=%s is %s in the Dockerfile and %q here", name, pkg, commands[name].pkg)
		}
	}
	for name := range commands {
		if packages[name] == "" {
			t.Errorf("the Dockerfile does not build %s", name)
		}
	}
}

// TestBuild builds a small image as a user would.
func TestBuild(t *testing.T) {
	t.Chdir(root)
	dir := t.TempDir()
	note, out := filepath.Join(dir, "note"), filepath.Join(dir, "out.tar")
	if err := os.WriteFile(note, []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"-package", "./deploy/cluster/pause", "-platform", "linux/arm64", "-name", "localhost/pause:test", "-add", note + ":/etc/note", "-o", out}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string]string{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(data)
	}
	if !strings.Contains(files["manifest.json"], "localhost/pause:test") {
		t.Errorf("the manifest is %s", files["manifest.json"])
	}
	config := ""
	for name, text := range files {
		if strings.Contains(text, `"architecture"`) && name != "manifest.json" {
			config = text
		}
	}
	if !strings.Contains(config, `"arm64"`) || !strings.Contains(config, "65532:65532") {
		t.Errorf("the configuration is %s", config)
	}
	for _, args := range [][]string{
		{"-service", "nobody", "-o", out}, {"-service", "gateway"}, {"-o", out}, {"-package", "./x", "-binary", "y", "-o", out}, {"-package", "./x", "-platform", "linux", "-o", out},
		{"-add", "nowhere", "-o", out},
	} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
