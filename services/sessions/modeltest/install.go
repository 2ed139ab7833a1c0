package modeltest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Versions of the agents that the tests install from npm. They are pinned so that a test
// means the same tomorrow.
var Versions = map[string]string{
	"@anthropic-ai/claude-code": "2.1.197",
	"opencode-ai":               "1.18.33",
}

// installTimeout covers a download of some 300 MB on a slow line.
const installTimeout = 10 * time.Minute

// cacheDir is where agents are installed. For root it is a place that the users of
// sandboxed sessions can read, which root's home is not.
func cacheDir(t testing.TB) string {
	if dir := os.Getenv("AGENTYARD_TEST_AGENTS"); dir != "" {
		return dir
	}
	if os.Getuid() == 0 {
		return "/var/cache/agentyard/agents"
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatalf("find the cache: %v", err)
	}
	return filepath.Join(dir, "agentyard", "agents")
}

// Install returns the path of bin from the npm package pkg, which it installs once per
// machine into the user's cache (AGENTYARD_TEST_AGENTS overrides the folder). Test
// processes that run at the same time wait for each other.
func Install(t testing.TB, pkg, bin string) string {
	t.Helper()
	version, ok := Versions[pkg]
	if !ok {
		t.Fatalf("install %s: no version is pinned for it", pkg)
	}
	dir := filepath.Join(cacheDir(t), strings.NewReplacer("/", "-", "@", "").Replace(pkg)+"-"+version)
	path := filepath.Join(dir, "node_modules", ".bin", bin)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatalf("install %s: %v", pkg, err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatalf("install %s: %v", pkg, err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatalf("install %s: %v", pkg, err)
	}
	done := filepath.Join(dir, "installed")
	if _, err := os.Stat(done); err == nil {
		return path
	}
	ctx, cancel := context.WithTimeout(context.Background(), installTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "install", "--prefix", dir, "--no-fund", "--no-audit", "--no-save", pkg+"@"+version)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("install %s with npm: %v\n%s", pkg, err, out)
	}
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		t.Fatalf("install %s: %v", pkg, err)
	}
	return path
}
