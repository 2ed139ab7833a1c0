package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

// queueFlags are the flags of queue create and queue update.
type queueFlags struct {
	description                                  string
	paused, preempt, noReuse                     bool
	concurrency, perTenant, perUser, perKey      int
	ageing, timeout, retention, keepFiles, reuse time.Duration
	reuseTasks, reuseSessions                    int
	tenants, users, rates                        []string
}

func (q *queueFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&q.description, "description", "", "what it is for")
	f.BoolVar(&q.paused, "paused", false, "start nothing yet")
	f.IntVar(&q.concurrency, "concurrency", 0, "tasks at once; 0: the server's default")
	f.IntVar(&q.perTenant, "per-tenant", 0, "tasks of one tenant at once; 0: the server's default")
	f.IntVar(&q.perUser, "per-user", 0, "tasks of one user at once; 0: the server's default")
	f.IntVar(&q.perKey, "per-key", 0, "tasks of one concurrency key at once (default 1)")
	f.StringArrayVar(&q.tenants, "tenant-weight", nil, "`TENANT=WEIGHT`, 1 to 1000 (default 1), or TENANT= for the default again; repeat for more")
	f.StringArrayVar(&q.users, "user-weight", nil, "`USER=WEIGHT` of a user's id, within the tenant; likewise")
	f.StringArrayVar(&q.rates, "rate", nil, "start at most `KEY=COUNT/TIME` tasks of a rate key, such as deploy=10/1h; * is any other key, KEY= takes the bound away")
	f.DurationVar(&q.ageing, "ageing", 0, "a waiting task gains one priority in this time (default 30m)")
	f.DurationVar(&q.timeout, "timeout", 0, "of an attempt whose task names none; 0: the server's default")
	f.DurationVar(&q.retention, "retention", 0, "keep a task for so long after its end; 0: the server's default")
	f.DurationVar(&q.keepFiles, "artifact-retention", 0, "keep the files of a task for so long; 0: the server's default")
	f.BoolVar(&q.preempt, "preempt", false, "let a waiting task take the place of a running one of lower priority")
	f.DurationVar(&q.reuse, "reuse-sessions", 0, "keep the session of a task that succeeded for so long, for the next task of the same owner, profile, repository and environment")
	f.IntVar(&q.reuseTasks, "reuse-tasks", 0, "how many tasks one session has (default 20)")
	f.IntVar(&q.reuseSessions, "reuse-idle", 0, "how many sessions wait for a task (default 10)")
	f.BoolVar(&q.noReuse, "no-reuse", false, "give each task a session of its own again")
}

// apply puts the flags that were given into a queue's configuration.
func (q *queueFlags) apply(cmd *cobra.Command, to *api.Queue) (err error) {
	for name, set := range map[string]func(){
		"description":        func() { to.Description = q.description },
		"paused":             func() { to.Paused = q.paused },
		"concurrency":        func() { to.Concurrency = q.concurrency },
		"per-tenant":         func() { to.PerTenant = q.perTenant },
		"per-user":           func() { to.PerUser = q.perUser },
		"per-key":            func() { to.PerKey = q.perKey },
		"ageing":             func() { to.Ageing = api.Duration(q.ageing) },
		"timeout":            func() { to.DefaultTimeout = api.Duration(q.timeout) },
		"retention":          func() { to.Retention = api.Duration(q.retention) },
		"artifact-retention": func() { to.ArtifactRetention = api.Duration(q.keepFiles) },
		"preempt":            func() { to.Preempt = q.preempt },
		"reuse-sessions":     func() { reuseOf(to).Idle = api.Duration(q.reuse) },
		"reuse-tasks":        func() { reuseOf(to).MaxTasks = q.reuseTasks },
		"reuse-idle":         func() { reuseOf(to).MaxIdle = q.reuseSessions },
	} {
		if cmd.Flags().Changed(name) {
			set()
		}
	}
	if q.noReuse {
		to.Reuse = nil
	}
	if to.TenantWeights, err = entries("--tenant-weight", to.TenantWeights, q.tenants, strconv.Atoi); err != nil {
		return err
	}
	if to.UserWeights, err = entries("--user-weight", to.UserWeights, q.users, strconv.Atoi); err != nil {
		return err
	}
	to.Rates, err = entries("--rate", to.Rates, q.rates, parseRate)
	return err
}

func reuseOf(q *api.Queue) *api.SessionReuse {
	if q.Reuse == nil {
		q.Reuse = &api.SessionReuse{}
	}
	return q.Reuse
}

// entries returns old with the entries of NAME=VALUE arguments; an empty value takes one out.
func entries[V any](flag string, old map[string]V, list []string, parse func(string) (V, error)) (map[string]V, error) {
	out := maps.Clone(old)
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, usage(fmt.Errorf("%s %q: want NAME=VALUE", flag, text))
		}
		if value == "" {
			delete(out, name)
			continue
		}
		v, err := parse(value)
		if err != nil {
			return nil, usage(fmt.Errorf("%s %q: %w", flag, text, err))
		}
		if out == nil {
			out = map[string]V{}
		}
		out[name] = v
	}
	return out, nil
}

func parseRate(text string) (api.Rate, error) {
	count, per, ok := strings.Cut(text, "/")
	n, err := strconv.Atoi(count)
	if !ok || err != nil {
		return api.Rate{}, fmt.Errorf("want COUNT/TIME, such as 10/1h")
	}
	d, err := time.ParseDuration(per)
	if err != nil {
		return api.Rate{}, err
	}
	return api.Rate{Count: n, Per: api.Duration(d)}, nil
}

func (a *app) queueUpdate() *cobra.Command {
	var flags queueFlags
	cmd := a.command("update NAME", "Change what the flags say of a queue, and nothing else", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		q, err := client.Do(cmd.Context(), c, api.GetQueue, api.NameRef{Name: args[0]})
		if err != nil {
			return err
		}
		req := api.UpdateQueueRequest{Name: args[0], IfMatch: q.Rev, Queue: q} // another's change in between is conflict
		if err := flags.apply(cmd, &req.Queue); err != nil {
			return err
		}
		return a.toldQueue(client.Do(cmd.Context(), c, api.UpdateQueue, req))
	})
	flags.register(cmd)
	return cmd
}

func (a *app) queueConfig() *cobra.Command {
	return a.command("config NAME", "Show how a queue is configured", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		q, err := client.Do(cmd.Context(), c, api.GetQueue, api.NameRef{Name: args[0]})
		if err != nil {
			return err
		}
		return a.show(q, func(t *table) {
			duration := func(name string, d api.Duration) {
				if d != 0 {
					t.row(name, d.D().String())
				}
			}
			t.row("queue", q.Name)
			t.field("description", q.Description)
			t.row("paused", strconv.FormatBool(q.Paused))
			for _, f := range []struct {
				name string
				n    int
			}{{"at once", q.Concurrency}, {"per tenant", q.PerTenant}, {"per user", q.PerUser}, {"per key", q.PerKey}} {
				t.row(f.name, bound(f.n))
			}
			for _, name := range slices.Sorted(maps.Keys(q.TenantWeights)) {
				t.row("weight of tenant "+name, strconv.Itoa(q.TenantWeights[name]))
			}
			for _, name := range slices.Sorted(maps.Keys(q.UserWeights)) {
				t.row("weight of user "+name, strconv.Itoa(q.UserWeights[name]))
			}
			for _, key := range slices.Sorted(maps.Keys(q.Rates)) {
				t.row("rate of "+key, fmt.Sprintf("%d in %s", q.Rates[key].Count, q.Rates[key].Per.D()))
			}
			duration("ageing", q.Ageing)
			duration("timeout", q.DefaultTimeout)
			duration("retention", q.Retention)
			duration("artifact retention", q.ArtifactRetention)
			t.row("preempt", strconv.FormatBool(q.Preempt))
			if r := q.Reuse; r != nil {
				t.row("sessions are reused", fmt.Sprintf("kept %s, %s tasks each, %s wait", or(durationText(r.Idle), "10m0s"), bound(r.MaxTasks), bound(r.MaxIdle)))
			}
		})
	})
}

func durationText(d api.Duration) string {
	if d == 0 {
		return ""
	}
	return d.D().String()
}
