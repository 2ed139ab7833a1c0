package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"
)

// EnvPrefix begins each environment variable: the flag -sessions.idle-timeout is AGENTAPI_SESSIONS_IDLE_TIMEOUT.
const EnvPrefix = "AGENTAPI_"

// EnvName returns the environment variable of a flag.
func EnvName(flagName string) string {
	return EnvPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(flagName))
}

// ParseFlags parses args into fs; a flag that args do not set takes its value from the environment
// (getenv; the variable's name is EnvPrefix and the flag's name in upper case with '.' and '-' as '_'; an empty variable counts as unset).
// A bad value names its source. `-h` returns flag.ErrHelp after printing usage with each flag's variable and default to
// fs.Output(); other errors are returned and not printed. fs must have been made with flag.ContinueOnError.
func ParseFlags(fs *flag.FlagSet, args []string, getenv func(string) string) error {
	vars := map[string]string{}
	var clash error
	fs.VisitAll(func(f *flag.Flag) {
		if other, ok := vars[EnvName(f.Name)]; ok {
			clash = fmt.Errorf("flags -%s and -%s are both the variable %s", other, f.Name, EnvName(f.Name))
		}
		vars[EnvName(f.Name)] = f.Name
	})
	if clash != nil {
		return clash
	}

	// The flag package prints each error and the whole usage with it; here the caller reports errors.
	out, usage := fs.Output(), fs.Usage
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	err := fs.Parse(args)
	fs.SetOutput(out)
	fs.Usage = usage
	if errors.Is(err, flag.ErrHelp) {
		printUsage(fs)
		return err
	}
	if err != nil {
		return err
	}

	set := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { set[f.Name] = true })
	var bad []error
	fs.VisitAll(func(f *flag.Flag) {
		value := getenv(EnvName(f.Name))
		if value == "" || set[f.Name] {
			return
		}
		if err := fs.Set(f.Name, value); err != nil {
			bad = append(bad, fmt.Errorf("invalid value %q for environment variable %s: %w", value, EnvName(f.Name), err))
		}
	})
	return errors.Join(bad...)
}

// printUsage writes each flag with its variable and default.
func printUsage(fs *flag.FlagSet) {
	w := fs.Output()
	fmt.Fprintf(w, "Usage: %s [flags]\n\nA flag that is not given takes its value from the environment variable beside it.\n\n", fs.Name())
	fs.VisitAll(func(f *flag.Flag) {
		arg, usage := flag.UnquoteUsage(f)
		if arg != "" {
			arg = " " + arg
		}
		def := ""
		if f.DefValue != "" && f.DefValue != "false" {
			def = ", default " + f.DefValue
		}
		fmt.Fprintf(w, "  -%s%s\n        %s (%s%s)\n", f.Name, arg, strings.ReplaceAll(usage, "\n", "\n        "), EnvName(f.Name), def)
	})
}

// Config is the part of the configuration that all processes share.
type Config struct {
	AdminListen string        // -admin-listen "127.0.0.1:0": /health /ready /metrics /debug/pprof; empty: none
	LogLevel    string        // -log.level debug|info|warn|error
	LogFormat   string        // -log.format json|text
	OTLP        string        // -otel.endpoint: OTLP/HTTP traces; empty: none
	StopTimeout time.Duration // -stop-timeout 30s: how long a graceful stop may take
}

// DefaultConfig returns the values that the flags' documentation names.
func DefaultConfig() Config {
	return Config{AdminListen: "127.0.0.1:0", LogLevel: "info", LogFormat: "json", StopTimeout: defaultStopTimeout}
}

// Register adds the flags of c to fs with c's current values as defaults; where c is zero, DefaultConfig's.
func (c *Config) Register(fs *flag.FlagSet) {
	if def := DefaultConfig(); *c == (Config{}) {
		*c = def
	}
	fs.StringVar(&c.AdminListen, "admin-listen", c.AdminListen,
		"`address` of the admin server with /health, /ready, /metrics and /debug/pprof; keep it off the public network; empty: none")
	fs.StringVar(&c.LogLevel, "log.level", orDefault(c.LogLevel, "info"), "least `level` to log: debug, info, warn or error")
	fs.StringVar(&c.LogFormat, "log.format", orDefault(c.LogFormat, "json"), "`format` of the log: json or text")
	fs.StringVar(&c.OTLP, "otel.endpoint", c.OTLP, "`URL` of an OTLP/HTTP collector for traces, such as http://127.0.0.1:4318; empty: none")
	if c.StopTimeout == 0 {
		c.StopTimeout = defaultStopTimeout
	}
	fs.DurationVar(&c.StopTimeout, "stop-timeout", c.StopTimeout, "how long a graceful stop may take")
}

// defaultStopTimeout is what Kubernetes grants a pod (terminationGracePeriodSeconds).
const defaultStopTimeout = 30 * time.Second

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
