package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

func (a *app) queue() *cobra.Command {
	return group("queue", "See and change the queues in which tasks wait", []string{"queues"},
		a.queueList(), a.queueShow(), a.queueConfig(), a.queueCreate(), a.queueUpdate(), a.queueDelete(),
		a.queueVerb("pause NAME", "Start no more tasks of a queue", api.PauseQueue),
		a.queueVerb("resume NAME", "Start tasks of a queue again", api.ResumeQueue),
		a.queueDead(), a.queueRedrive())
}

func (a *app) queueList() *cobra.Command {
	var req api.List
	cmd := a.command("list", "List queues", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		page, err := client.Do(cmd.Context(), c, api.ListQueues, req)
		if err != nil {
			return err
		}
		return a.show(page, func(t *table) {
			t.row("NAME", "PAUSED", "AT ONCE", "DESCRIPTION")
			for _, q := range page.Items {
				t.row(q.Name, strconv.FormatBool(q.Paused), bound(q.Concurrency), shorten(q.Description, 60))
			}
			a.more(page.NextCursor)
		})
	})
	cmd.Aliases = []string{"ls"}
	listFlags(cmd, &req)
	return cmd
}

func bound(n int) string {
	if n == 0 {
		return "default"
	}
	return strconv.Itoa(n)
}

func (a *app) queueShow() *cobra.Command {
	return a.command("show NAME", "Show a queue: its tasks by state, and what they wait for", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		stats, err := client.Do(cmd.Context(), c, api.GetQueueStats, api.NameRef{Name: args[0]})
		if err != nil {
			return err
		}
		return a.show(stats, func(t *table) {
			t.row("queue", stats.Queue)
			t.field("paused", strconv.FormatBool(stats.Paused))
			for _, state := range api.TaskStates() {
				if n := stats.States[state]; n > 0 {
					t.field(string(state), strconv.Itoa(n))
				}
			}
			for _, reason := range slices.Sorted(maps.Keys(stats.Waiting)) {
				t.field("waits: "+string(reason), strconv.Itoa(stats.Waiting[reason]))
			}
			t.field("dead letters", strconv.Itoa(stats.DeadLetters))
			t.field("oldest waits since", stamp(stats.OldestAt))
		})
	})
}

func (a *app) queueCreate() *cobra.Command {
	var flags queueFlags
	cmd := a.command("create NAME", "Create a queue", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		q := api.Queue{Name: args[0]}
		if err := flags.apply(cmd, &q); err != nil {
			return err
		}
		return a.toldQueue(client.Do(cmd.Context(), c, api.CreateQueue, q))
	})
	flags.register(cmd)
	return cmd
}

func (a *app) queueDelete() *cobra.Command {
	return a.command("delete NAME", "Delete a queue in which nothing waits or runs", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		_, err := client.Do(cmd.Context(), c, api.DeleteQueue, api.NameRef{Name: args[0]})
		return err
	})
}

func (a *app) queueVerb(use, short string, op api.Op[api.NameRef, api.Queue]) *cobra.Command {
	return a.command(use, short, cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		return a.toldQueue(client.Do(cmd.Context(), c, op, api.NameRef{Name: args[0]}))
	})
}

func (a *app) toldQueue(q api.Queue, err error) error {
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.show(q, nil)
	}
	state := "takes tasks"
	if q.Paused {
		state = "is paused"
	}
	_, err = fmt.Fprintf(a.Out, "%s %s\n", q.Name, state)
	return err
}

func (a *app) queueDead() *cobra.Command {
	var req api.DeadLettersRequest
	cmd := a.command("dead-letters NAME", "List the tasks of a queue that failed for good", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		req.Name = args[0]
		page, err := client.Do(cmd.Context(), c, api.ListDeadLetters, req)
		if err != nil {
			return err
		}
		return a.showTasks(page)
	})
	listFlags(cmd, &req.List)
	return cmd
}

func (a *app) queueRedrive() *cobra.Command {
	var req api.RedriveRequest
	cmd := a.command("redrive NAME [TASK…]", "Queue tasks that failed for good once more", cobra.MinimumNArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		req.Name, req.IDs = args[0], args[1:]
		done, err := client.Do(cmd.Context(), c, api.Redrive, req)
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.show(done, nil)
		}
		_, err = fmt.Fprintf(a.Out, "%d queued\n", done.Queued)
		return err
	})
	cmd.Flags().IntVar(&req.Limit, "limit", 0, "of the newest, when none is named (default 100)")
	return cmd
}
