package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"agentyard.dev/services/standalone"
	"agentyard.dev/services/standalone/client"
)

func (a *app) sessionFiles() *cobra.Command {
	return group("files", "List, read and write files of a session's workspace", nil,
		a.filesList(), a.filesGet(), a.filesPut())
}

func filesTarget(session, path string) string {
	return "/api/v1/sessions/" + session + "/files?" + url.Values{"path": {path}}.Encode()
}

// listing is a directory of the workspace.
type listing struct {
	Items []struct {
		Path string `json:"path"`
		Type string `json:"type"`
		Size int64  `json:"size"`
	} `json:"items"`
	Truncated bool `json:"truncated"`
}

// maxListing bounds the listing of one directory.
const maxListing = 32 << 20

func (a *app) filesList() *cobra.Command {
	cmd := a.onSession("list ID", "List a directory", func(ctx context.Context, c *client.Client, args []string) error {
		path := "."
		if len(args) > 1 {
			path = args[1]
		}
		resp, err := c.Request(ctx, http.MethodGet, filesTarget(args[0], path), nil, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if !isListing(resp) {
			return usage(fmt.Errorf("%s is a file; read it with 'agentyard session files get'", path))
		}
		data, err := io.ReadAll(io.LimitReader(resp.Body, maxListing))
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.show(json.RawMessage(data), nil)
		}
		var dir listing
		if err := json.Unmarshal(data, &dir); err != nil {
			return fmt.Errorf("read the listing: %w", err)
		}
		if dir.Truncated {
			a.hint("the directory has more entries than are listed")
		}
		return a.show(nil, func(t *table) {
			for _, e := range dir.Items {
				name, size := filepath.Base(e.Path), fmt.Sprint(e.Size)
				switch e.Type {
				case "directory":
					name, size = name+"/", ""
				case "symlink":
					name, size = name+"@", ""
				}
				t.row(name, size)
			}
		})
	})
	cmd.Use, cmd.Aliases, cmd.Args = "list ID [PATH]", []string{"ls"}, cobra.RangeArgs(1, 2)
	return cmd
}

func (a *app) filesGet() *cobra.Command {
	var to string
	cmd := a.onSession("get ID PATH", "Write a file of the workspace to standard output or --to", func(ctx context.Context, c *client.Client, args []string) error {
		resp, err := c.Request(ctx, http.MethodGet, filesTarget(args[0], args[1]), nil, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if isListing(resp) {
			return usage(fmt.Errorf("%s is a directory", args[1]))
		}
		if to == "" {
			_, err = io.Copy(a.Out, resp.Body)
			return err
		}
		return standalone.CopyFile(to, resp.Body, 0o644)
	})
	cmd.Flags().StringVar(&to, "to", "", "`file` to write instead of standard output")
	return cmd
}

func (a *app) filesPut() *cobra.Command {
	cmd := a.onSession("put ID FILE", "Write a file into the workspace; FILE - is standard input", func(ctx context.Context, c *client.Client, args []string) error {
		in, name := a.In, ""
		if args[1] != "-" {
			f, err := os.Open(args[1])
			if err != nil {
				return err
			}
			defer f.Close()
			in, name = f, filepath.Base(args[1])
		}
		if len(args) > 2 {
			name = args[2]
		}
		if name == "" {
			return usage(errors.New("say where to write standard input to: files put ID - PATH"))
		}
		// NopCloser: the transport must not close standard input.
		resp, err := c.Request(ctx, http.MethodPut, filesTarget(args[0], name), http.Header{"Content-Type": {"application/octet-stream"}}, io.NopCloser(in))
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	cmd.Use, cmd.Args = "put ID FILE [PATH]", cobra.RangeArgs(2, 3)
	return cmd
}

// isListing reports whether an answer lists a directory: a file's content, JSON or not, comes as octets.
func isListing(resp *http.Response) bool {
	return strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json")
}
