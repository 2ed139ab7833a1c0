package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

func (a *app) schedule() *cobra.Command {
	return group("schedule", "Make tasks at planned times", []string{"schedules", "cron"},
		a.scheduleCreate(), a.scheduleUpdate(), a.scheduleList(), a.scheduleShow(), a.scheduleHistory(), a.scheduleNext(),
		a.onSchedule("pause ID", "Make no more tasks of a schedule", func(ctx context.Context, c *client.Client, id string) error {
			s, err := client.Do(ctx, c, api.PauseSchedule, api.ScheduleRef{ID: id})
			if err != nil {
				return err
			}
			return a.showSchedule(s)
		}),
		a.onSchedule("resume ID", "Make tasks of a schedule again", func(ctx context.Context, c *client.Client, id string) error {
			s, err := client.Do(ctx, c, api.ResumeSchedule, api.ScheduleRef{ID: id})
			if err != nil {
				return err
			}
			return a.showSchedule(s)
		}),
		a.onSchedule("run ID", "Make a schedule's task now and print the task's id", func(ctx context.Context, c *client.Client, id string) error {
			t, err := client.Do(ctx, c, api.RunSchedule, api.RunScheduleRequest{ID: id, IdempotencyKey: api.NewID(api.KindMessage)})
			if err != nil {
				return err
			}
			return a.show(t, func(tb *table) { tb.row(t.ID) })
		}),
		a.onSchedule("delete ID", "Delete a schedule; its tasks stay", func(ctx context.Context, c *client.Client, id string) error {
			_, err := client.Do(ctx, c, api.DeleteSchedule, api.ScheduleRef{ID: id})
			return err
		}),
	)
}

func (a *app) scheduleCreate() *cobra.Command {
	var req api.CreateScheduleRequest
	var task taskFlags
	var flags scheduleFlags
	cmd := a.command("create [PROMPT]", "Create a schedule and print its id", cobra.MaximumNArgs(1), nil)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if flags.cron == "" {
			return usage(errors.New("give --cron, such as --cron '30 2 * * *'"))
		}
		made, err := task.request(a, args)
		if err != nil {
			return err
		}
		req.Task, req.Title = made.TaskSpec, made.Title
		req.IdempotencyKey = made.IdempotencyKey // so that a lost answer can be asked again
		req.Cron, req.Timezone, req.Paused, req.PauseAfter = flags.cron, flags.timezone, flags.paused, flags.pauseAfter
		req.Overlap, req.CatchUp, req.Jitter = api.Overlap(flags.overlap), api.Duration(flags.catchUp), api.Duration(flags.jitter)
		c, err := a.client()
		if err != nil {
			return err
		}
		s, err := client.Do(cmd.Context(), c, api.CreateSchedule, req)
		if err != nil {
			return err
		}
		if len(s.Next) > 0 {
			a.hint("next at %s", inZone(s, s.Next[0]))
		}
		return a.show(s, func(t *table) { t.row(s.ID) })
	}
	cmd.Long = "Create makes a schedule: a task at each time that a cron expression names. The expression has five fields, minute\n" +
		"hour day-of-month month day-of-week, or six with seconds in front, or is @daily, @every 90m and the like. A time that a\n" +
		"change of clocks skips or repeats makes one task; what has a * in its seconds, minutes or hours goes by elapsed time."
	cmd.Example = "  agentyard schedule create --cron '30 2 * * mon-fri' --timezone Europe/Berlin \\\n" +
		"      --repo https://github.com/you/project --branch deps 'Update the dependencies'"
	task.register(cmd)
	flags.register(cmd)
	return cmd
}

func (a *app) scheduleList() *cobra.Command {
	var req api.ListSchedulesRequest
	cmd := a.command("list", "List schedules, newest first", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		page, err := client.Do(cmd.Context(), c, api.ListSchedules, req)
		if err != nil {
			return err
		}
		return a.show(page, func(t *table) {
			t.row("ID", "CRON", "TIMEZONE", "NEXT", "FIRES", "TITLE")
			for _, s := range page.Items {
				next := "paused"
				if len(s.Next) > 0 {
					next = inZone(s, s.Next[0])
				}
				t.row(s.ID, s.Cron, or(s.Timezone, "UTC"), next, fmt.Sprint(s.Fires), shorten(or(s.Title, or(s.Task.Title, s.Task.Prompt+s.Task.Command)), 40))
			}
			a.more(page.NextCursor)
		})
	})
	cmd.Aliases = []string{"ls"}
	cmd.Flags().StringVar(&req.Owner, "owner", "", "only this principal's schedules")
	cmd.Flags().StringVarP(&req.Query, "query", "q", "", "only schedules with this text in their title, expression or id")
	listFlags(cmd, &req.List)
	return cmd
}

func (a *app) scheduleShow() *cobra.Command {
	return a.onSchedule("show ID", "Show a schedule and its next five times", func(ctx context.Context, c *client.Client, id string) error {
		s, err := client.Do(ctx, c, api.GetSchedule, api.ScheduleRef{ID: id})
		if err != nil {
			return err
		}
		return a.showSchedule(s)
	})
}

func (a *app) showSchedule(s api.Schedule) error {
	return a.show(s, func(t *table) {
		t.row("id", s.ID)
		t.field("title", s.Title)
		t.row("cron", s.Cron+" "+or(s.Timezone, "UTC"))
		if s.Paused {
			t.row("paused", or(s.PausedReason, "yes"))
		}
		t.field("task", shorten(or(s.Task.Title, s.Task.Prompt+s.Task.Command), 60))
		t.field("overlap", string(s.Overlap))
		t.field("owner", s.Owner)
		t.row("fires", fmt.Sprintf("%d, %d skipped, %d missed", s.Fires, s.Skipped, s.Missed))
		if s.LastFire != nil {
			t.row("last", strings.TrimSpace(inZone(s, *s.LastFire)+" "+s.LastTask))
		}
		t.field("problem", s.LastProblem)
		for i, at := range s.Next {
			name := ""
			if i == 0 {
				name = "next"
			}
			t.row(name, inZone(s, at))
		}
	})
}

func (a *app) scheduleNext() *cobra.Command {
	var count int
	var preview api.PreviewScheduleRequest
	cmd := a.command("next [ID]", "List the next planned times of a schedule, or of an expression", cobra.MaximumNArgs(1),
		func(cmd *cobra.Command, c *client.Client, args []string) error {
			if (len(args) == 0) == (preview.Cron == "") {
				return usage(errors.New("give either a schedule's id or --cron"))
			}
			var s api.Schedule
			var times api.NextTimesResponse
			var err error
			if len(args) == 1 {
				if s, err = client.Do(cmd.Context(), c, api.GetSchedule, api.ScheduleRef{ID: args[0]}); err != nil {
					return err
				}
				times, err = client.Do(cmd.Context(), c, api.NextTimes, api.NextTimesRequest{ID: args[0], Count: count})
			} else {
				s.Timezone, preview.Count = preview.Timezone, count
				times, err = client.Do(cmd.Context(), c, api.PreviewSchedule, preview)
			}
			if err != nil {
				return err
			}
			return a.show(times, func(t *table) {
				for _, at := range times.Items {
					t.row(inZone(s, at))
				}
			})
		})
	cmd.Flags().IntVarP(&count, "count", "n", 0, "how many, 1 to 100 (default 5)")
	cmd.Flags().StringVar(&preview.Cron, "cron", "", "a cron `expression`, in the place of a schedule")
	cmd.Flags().StringVar(&preview.Timezone, "timezone", "", "IANA time `zone` of the expression (default UTC)")
	return cmd
}

// onSchedule returns a command on one schedule.
func (a *app) onSchedule(use, short string, run func(context.Context, *client.Client, string) error) *cobra.Command {
	return a.command(use, short, cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		return run(cmd.Context(), c, args[0])
	})
}

// inZone shows a time as the clocks of a schedule's zone do.
func inZone(s api.Schedule, at time.Time) string {
	loc, err := time.LoadLocation(s.Timezone) // of none: UTC
	if err != nil {
		loc = time.UTC
	}
	return at.In(loc).Format("Mon 2006-01-02 15:04:05 -0700")
}
