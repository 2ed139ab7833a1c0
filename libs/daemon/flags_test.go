package daemon

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// exampleFlags is a service's flag set: the shared flags and a few of its own.
func exampleFlags() (*flag.FlagSet, *Config, *exampleConfig) {
	fs := flag.NewFlagSet("example", flag.ContinueOnError)
	var shared Config
	shared.Register(fs)
	own := exampleConfig{idle: 30 * time.Minute}
	fs.DurationVar(&own.idle, "sessions.idle-timeout", own.idle, "end a session after this `time` without work")
	fs.IntVar(&own.max, "sessions.max", 20, "most sessions at once")
	fs.BoolVar(&own.dry, "dry-run", false, "change nothing")
	return fs, &shared, &own
}

type exampleConfig struct {
	idle time.Duration
	max  int
	dry  bool
}

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestEnvName(t *testing.T) {
	for name, want := range map[string]string{
		"sessions.idle-timeout": "AGENTAPI_SESSIONS_IDLE_TIMEOUT",
		"admin-listen":          "AGENTAPI_ADMIN_LISTEN",
		"log.level":             "AGENTAPI_LOG_LEVEL",
		"n":                     "AGENTAPI_N",
	} {
		if got := EnvName(name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestParseFlags(t *testing.T) {
	t.Run("has the documented defaults", func(t *testing.T) {
		fs, shared, own := exampleFlags()
		if err := ParseFlags(fs, nil, env(nil)); err != nil {
			t.Fatal(err)
		}
		if want := (Config{"127.0.0.1:0", "info", "json", "", 30 * time.Second}); *shared != want {
			t.Errorf("got %+v, want %+v", *shared, want)
		}
		if own.idle != 30*time.Minute || own.max != 20 {
			t.Errorf("got %+v", *own)
		}
	})
	t.Run("keeps the defaults that a service sets", func(t *testing.T) {
		fs := flag.NewFlagSet("x", flag.ContinueOnError)
		c := Config{LogFormat: "text"}
		c.Register(fs)
		if err := ParseFlags(fs, nil, env(nil)); err != nil {
			t.Fatal(err)
		}
		if want := (Config{"", "info", "text", "", 30 * time.Second}); c != want {
			t.Errorf("got %+v, want %+v", c, want)
		}
	})
	t.Run("prefers the flag to the environment and that to the default", func(t *testing.T) {
		fs, shared, own := exampleFlags()
		err := ParseFlags(fs, []string{"-sessions.max=7", "rest"}, env(map[string]string{
			"AGENTAPI_SESSIONS_MAX":          "8",
			"AGENTAPI_SESSIONS_IDLE_TIMEOUT": "5m",
			"AGENTAPI_DRY_RUN":               "true",
			"AGENTAPI_LOG_LEVEL":             "", // as good as unset
		}))
		if err != nil {
			t.Fatal(err)
		}
		if want := (exampleConfig{5 * time.Minute, 7, true}); *own != want || shared.LogLevel != "info" {
			t.Errorf("got %+v and level %q, want %+v", *own, shared.LogLevel, want)
		}
		if fs.NArg() != 1 {
			t.Errorf("arguments left: %v", fs.Args())
		}
	})
	t.Run("names the source of a bad value, prints nothing", func(t *testing.T) {
		for name, c := range map[string]struct {
			args []string
			vars map[string]string
			want []string
		}{
			"flag":         {[]string{"-sessions.max=many"}, nil, []string{`"many"`, "-sessions.max"}},
			"unknown flag": {[]string{"-nope"}, nil, []string{"-nope"}},
			"environment":  {nil, map[string]string{"AGENTAPI_STOP_TIMEOUT": "soon"}, []string{`"soon"`, "AGENTAPI_STOP_TIMEOUT"}},
			"all of the environment": {nil, map[string]string{"AGENTAPI_STOP_TIMEOUT": "soon", "AGENTAPI_SESSIONS_MAX": "many"},
				[]string{"AGENTAPI_STOP_TIMEOUT", "AGENTAPI_SESSIONS_MAX"}},
		} {
			fs, _, _ := exampleFlags()
			var out bytes.Buffer
			fs.SetOutput(&out)
			err := ParseFlags(fs, c.args, env(c.vars))
			if err == nil {
				t.Errorf("%s: accepted", name)
				continue
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %q does not name %s", name, err, want)
				}
			}
			if out.Len() > 0 {
				t.Errorf("%s: printed %q", name, out.String())
			}
		}
	})
	t.Run("refuses two flags of one variable", func(t *testing.T) {
		fs := flag.NewFlagSet("x", flag.ContinueOnError)
		fs.String("a.b", "", "")
		fs.String("a-b", "", "")
		if err := ParseFlags(fs, nil, env(nil)); err == nil || !strings.Contains(err.Error(), "AGENTAPI_A_B") {
			t.Errorf("got %v", err)
		}
	})
}

func TestHelp(t *testing.T) {
	const golden = "testdata/help.golden"
	fs, _, _ := exampleFlags()
	var out bytes.Buffer
	fs.SetOutput(&out)
	// The environment's values are not part of the text: -h documents, and may be pasted anywhere.
	if err := ParseFlags(fs, []string{"-h"}, env(map[string]string{"AGENTAPI_SESSIONS_MAX": "4711"})); !errors.Is(err, flag.ErrHelp) {
		t.Fatalf("got %v, want flag.ErrHelp", err)
	}
	if *update {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("-h has changed; if that is right, run go test ./daemon -update\ngot:\n%s\nwant:\n%s", out.Bytes(), want)
	}
}

func FuzzParseFlags(f *testing.F) {
	f.Add("-sessions.max=3", "5m")
	f.Add("--", "")
	f.Add("-sessions.idle-timeout", "-1s")
	f.Fuzz(func(t *testing.T, arg, value string) {
		fs, _, own := exampleFlags()
		fs.SetOutput(&bytes.Buffer{})
		err := ParseFlags(fs, []string{arg}, env(map[string]string{"AGENTAPI_SESSIONS_IDLE_TIMEOUT": value}))
		if d, perr := time.ParseDuration(value); err == nil && perr == nil && !strings.HasPrefix(arg, "-") && own.idle != d {
			t.Errorf("got %v from %q", own.idle, value)
		}
	})
}
