package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

// scheduleFlags are the flags of schedule create and schedule update.
type scheduleFlags struct {
	cron, timezone, overlap string
	catchUp, jitter         time.Duration
	paused                  bool
	pauseAfter              int
}

func (s *scheduleFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.cron, "cron", "", "when, a cron `expression`")
	f.StringVar(&s.timezone, "timezone", "", "IANA time `zone` of the expression (default UTC)")
	f.StringVar(&s.overlap, "overlap", "", "when the last task has not ended: skip, queue or cancel_running (default skip)")
	f.DurationVar(&s.catchUp, "catch-up", 0, "how late a task may be made after the scheduler was away (default 10m)")
	f.DurationVar(&s.jitter, "jitter", 0, "make each task up to this much later")
	f.BoolVar(&s.paused, "paused", false, "make no tasks")
	f.IntVar(&s.pauseAfter, "pause-after", 0, "pause after this many failed tasks in a row; -1: never (default 10)")
	_ = cmd.RegisterFlagCompletionFunc("overlap", cobra.FixedCompletions(
		[]string{string(api.OverlapSkip), string(api.OverlapQueue), string(api.OverlapCancel)}, cobra.ShellCompDirectiveNoFileComp))
}

func (a *app) scheduleUpdate() *cobra.Command {
	var flags scheduleFlags
	var task taskFlags
	cmd := a.command("update ID [PROMPT]", "Change what the flags say of a schedule", cobra.RangeArgs(1, 2), func(cmd *cobra.Command, c *client.Client, args []string) error {
		req := api.UpdateScheduleRequest{ID: args[0]}
		overlap, catchUp, jitter := api.Overlap(flags.overlap), api.Duration(flags.catchUp), api.Duration(flags.jitter)
		for name, set := range map[string]func(){
			"cron": func() { req.Cron = &flags.cron }, "timezone": func() { req.Timezone = &flags.timezone }, "overlap": func() { req.Overlap = &overlap },
			"catch-up": func() { req.CatchUp = &catchUp }, "jitter": func() { req.Jitter = &jitter }, "paused": func() { req.Paused = &flags.paused },
			"pause-after": func() { req.PauseAfter = &flags.pauseAfter }, "title": func() { req.Title = &task.spec.Title },
		} {
			if cmd.Flags().Changed(name) {
				set()
			}
		}
		if len(args) == 2 || task.spec.Command != "" {
			made, err := task.request(a, args[1:])
			if err != nil {
				return err
			}
			req.Task = &made.TaskSpec
		} else if name := isTask(cmd); name != "" {
			return usage(fmt.Errorf("--%s is of a task: give its prompt or --command too, for the task is replaced as a whole", name))
		}
		s, err := client.Do(cmd.Context(), c, api.UpdateSchedule, req)
		if err != nil {
			return err
		}
		return a.showSchedule(s)
	})
	cmd.Long = "Update changes the given parts of a schedule; its next task is counted from now. With a PROMPT or --command its task is\n" +
		"replaced by what the flags say; without, the task stays."
	task.register(cmd)
	flags.register(cmd)
	return cmd
}

// isTask names a flag that was given and is of the task that a schedule makes, but for those that make one and the title, which is the schedule's too; "": none.
func isTask(cmd *cobra.Command) (name string) {
	var of cobra.Command
	new(taskFlags).register(&of)
	of.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "command" && f.Name != "title" && cmd.Flags().Changed(f.Name) {
			name = f.Name
		}
	})
	return name
}

func (a *app) scheduleHistory() *cobra.Command {
	var list api.List
	cmd := a.onSchedule("history ID", "List every change of a schedule, oldest first", func(ctx context.Context, c *client.Client, id string) error {
		page, err := client.Do(ctx, c, api.ScheduleHistory, api.HistoryRequest{ID: id, List: list})
		if err != nil {
			return err
		}
		return a.show(page, func(t *table) {
			t.row("REV", "AT", "ACTOR", "VERB", "CRON", "LAST TASK", "REASON")
			for _, ch := range page.Items {
				t.row(fmt.Sprint(ch.Rev), stamp(&ch.At), ch.Actor, ch.Verb, ch.State.Cron, ch.State.LastTask, ch.Reason)
			}
			a.more(page.NextCursor)
		})
	})
	listFlags(cmd, &list)
	return cmd
}
