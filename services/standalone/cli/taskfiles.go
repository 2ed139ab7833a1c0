package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone"
	"agentyard.dev/services/standalone/client"
)

// maxBatchFile bounds the file of task batch: the server takes less.
const maxBatchFile = 16 << 20

func (a *app) taskBatch() *cobra.Command {
	cmd := a.command("batch FILE", "Queue the tasks of a JSON file, which may depend on each other", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		in := a.In
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		data, err := io.ReadAll(io.LimitReader(in, maxBatchFile))
		if err != nil {
			return err
		}
		req := api.CreateTasksRequest{IdempotencyKey: api.NewID(api.KindTask)}
		if err := json.Unmarshal(data, &req.Tasks); err != nil {
			return usage(fmt.Errorf("%s: want a JSON list of tasks, such as [{\"name\":\"a\",\"prompt\":\"…\"}]: %w", args[0], plainly(err)))
		}
		made, err := client.Do(cmd.Context(), c, api.CreateTasks, req)
		if err != nil {
			return err
		}
		return a.show(made, func(t *table) {
			for _, task := range made.Items {
				t.row(task.ID, task.Name)
			}
		})
	})
	cmd.Long = "Batch queues all tasks of a JSON list, or none when one is wrong. Each has the fields of POST /api/v1/tasks; depends_on names\n" +
		"others of the list by their name. A FILE of - is standard input."
	cmd.Example = `  echo '[{"name": "build", "command": "make"}, {"command": "make test", "depends_on": ["build"]}]' | agentyard task batch -`
	return cmd
}

func (a *app) taskHistory() *cobra.Command {
	var list api.List
	cmd := a.onTask("history ID", "List every change of a task, oldest first", func(ctx context.Context, c *client.Client, args []string) error {
		page, err := client.Do(ctx, c, api.TaskHistory, api.HistoryRequest{ID: args[0], List: list})
		if err != nil {
			return err
		}
		return a.show(page, func(t *table) {
			t.row("REV", "AT", "ACTOR", "VERB", "STATE", "SESSION", "REASON")
			for _, ch := range page.Items {
				t.row(fmt.Sprint(ch.Rev), stamp(&ch.At), ch.Actor, ch.Verb, string(ch.State.State), ch.State.SessionID, ch.Reason)
			}
			a.more(page.NextCursor)
		})
	})
	listFlags(cmd, &list)
	return cmd
}

func (a *app) taskArtifacts() *cobra.Command {
	return a.onTask("artifacts ID", "List the files that a task left", func(ctx context.Context, c *client.Client, args []string) error {
		page, err := client.Do(ctx, c, api.ListArtifacts, api.TaskRef{ID: args[0]})
		if err != nil {
			return err
		}
		return a.show(page, func(t *table) {
			t.row("PATH", "SIZE", "SHA-256")
			for _, f := range page.Items {
				t.row(f.Path, fmt.Sprint(f.Size), f.SHA256)
			}
		})
	})
}

func (a *app) taskDownload() *cobra.Command {
	var to string
	cmd := a.onTask("download ID", "Write a file that a task left to standard output or --to; without PATH, all of them below --to",
		func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) == 2 {
				return a.download(ctx, c, args[0], args[1], to)
			}
			if to == "" {
				return usage(fmt.Errorf("say which file, or with --to below which directory all of them are written"))
			}
			page, err := client.Do(ctx, c, api.ListArtifacts, api.TaskRef{ID: args[0]})
			if err != nil {
				return err
			}
			for _, f := range page.Items {
				if !filepath.IsLocal(filepath.FromSlash(f.Path)) {
					return fmt.Errorf("%q is no path below a directory", f.Path)
				}
				name := filepath.Join(to, filepath.FromSlash(f.Path))
				if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
					return err
				}
				if err := a.download(ctx, c, args[0], f.Path, name); err != nil {
					return err
				}
				a.hint("%s", name)
			}
			return nil
		})
	cmd.Use, cmd.Args = "download ID [PATH]", cobra.RangeArgs(1, 2)
	cmd.Flags().StringVar(&to, "to", "", "`file` to write, or of all files the directory")
	return cmd
}

func (a *app) download(ctx context.Context, c *client.Client, task, name, to string) error {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	resp, err := c.Request(ctx, http.MethodGet, "/api/v1/tasks/"+task+"/artifacts/"+strings.Join(parts, "/"), nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if to == "" {
		_, err = io.Copy(a.Out, resp.Body)
		return err
	}
	return standalone.CopyFile(to, resp.Body, 0o644)
}
