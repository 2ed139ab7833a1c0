// Package scenario runs what a person does with agentyard, as scripts of its command
// line (testdata/*.txtar), against a yard in one process and against one whose services are
// processes of their own. Each script has a tenant for itself and is its admin.
package scenario

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/yardtest"
)

func TestMain(m *testing.M) { yardtest.Main(m) }

func TestScripts(t *testing.T) {
	bin := filepath.Dir(yardtest.Binary(t, "agentyard"))
	yardtest.EachArrangement(t, func(t *testing.T, y *yardtest.Yard) {
		// A group, so that the yard outlives the scripts, which run at the same time.
		t.Run("scripts", func(t *testing.T) {
			testscript.Run(t, testscript.Params{
				Dir:                 "testdata",
				RequireExplicitExec: true,
				Setup: func(env *testscript.Env) error {
					name := "t" + api.NewID(api.KindUser)
					var tenant api.CreateTenantResponse
					y.Client.Must(t, "POST", "/api/v1/tenants", api.CreateTenantRequest{Name: name}, &tenant)
					env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
					env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
					env.Setenv("TENANT", name)
					env.Setenv("AGENTYARD_URL", y.URL)
					env.Setenv("AGENTYARD_KEY", tenant.AdminKey)
					env.Setenv("OPERATOR_KEY", y.Client.Key)
					return os.Mkdir(filepath.Join(env.WorkDir, "home"), 0o700)
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"capture": capture,
					"exits":   exits,
					"await":   await,
				},
			})
		})
	})
}

// capture NAME [FIELD] sets a variable to what the last command printed, or to a field of that JSON object.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: capture NAME [FIELD]")
	}
	value := strings.TrimSpace(ts.ReadFile("stdout"))
	if len(args) == 2 {
		var object map[string]any
		ts.Check(json.Unmarshal([]byte(value), &object))
		text, ok := object[args[1]].(string)
		if !ok {
			ts.Fatalf("%s is no text in %s", args[1], value)
		}
		value = text
	}
	if value == "" {
		ts.Fatalf("nothing to capture")
	}
	ts.Setenv(args[0], value)
}

// awaitWithin bounds await; awaitStep is the pause between its attempts.
const (
	awaitWithin = 20 * time.Second
	awaitStep   = 50 * time.Millisecond
)

// await TEXT COMMAND… runs a command again and again until it prints TEXT.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await TEXT COMMAND…")
	}
	deadline := time.After(awaitWithin)
	tick := time.NewTicker(awaitStep)
	defer tick.Stop()
	for {
		ts.Check(ts.Exec(args[1], args[2:]...))
		if strings.Contains(ts.ReadFile("stdout"), args[0]) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("%q was not printed within %v", args[0], awaitWithin)
		}
	}
}

// exits STATUS COMMAND… runs a command that must end with this exit status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}
