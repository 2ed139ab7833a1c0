package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

func (a *app) profile() *cobra.Command {
	return group("profile", "Manage profiles: what a session of a kind is", []string{"profiles"},
		a.profileApply(), a.profileList(), a.profileShow(), a.profileDelete())
}

func (a *app) profileApply() *cobra.Command {
	var file string
	cmd := a.command("apply -f FILE", "Create or replace profiles from a YAML or JSON file", cobra.NoArgs,
		func(cmd *cobra.Command, c *client.Client, _ []string) error {
			if file == "" {
				return usage(errors.New("say which file to apply: -f FILE"))
			}
			profiles, err := a.readProfiles(file)
			if err != nil {
				return err
			}
			var applied []api.Profile
			var did []string
			for _, p := range profiles {
				now, verb, err := apply(cmd, c, p)
				if err != nil {
					return fmt.Errorf("profile %s: %w", p.Name, err)
				}
				applied, did = append(applied, now), append(did, verb)
			}
			return a.show(applied, func(t *table) {
				for i, p := range applied {
					t.row(p.Name, did[i])
				}
			})
		})
	cmd.Long = "Apply reads one or more YAML documents, each a profile with the fields of the HTTP API, and creates\n" +
		"or replaces the profile of that name. All documents are checked before the first is applied."
	cmd.Example = "  name: careful\n  description: Claude Code with little room\n  agent: {kind: claude}\n" +
		"  resources: {cpus: 1, memory_bytes: 2147483648, processes: 256}\n  isolation: [mount, pid]\n  ttl: 4h\n" +
		"  secrets: [{name: model-key, env: ANTHROPIC_API_KEY}] # of 'agentyard secret set'; or file: PATH, below the home"
	cmd.Flags().StringVarP(&file, "file", "f", "", "`file` to read; - is standard input")
	return cmd
}

func (a *app) readProfiles(file string) ([]api.Profile, error) {
	in := a.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxProfileFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	profiles, err := parseProfiles(data)
	if err != nil {
		return nil, usage(fmt.Errorf("%s: %w", file, err))
	}
	return profiles, nil
}

// apply creates p, or replaces the profile of its name as it was just read.
func apply(cmd *cobra.Command, c *client.Client, p api.Profile) (now api.Profile, verb string, err error) {
	old, err := client.Do(cmd.Context(), c, api.GetProfile, api.NameRef{Name: p.Name})
	switch {
	case errors.Is(err, &api.Error{Code: api.CodeNotFound}):
		now, err = client.Do(cmd.Context(), c, api.CreateProfile, p)
		return now, "created", err
	case err != nil:
		return now, "", err
	}
	now, err = client.Do(cmd.Context(), c, api.UpdateProfile, api.UpdateProfileRequest{Name: p.Name, IfMatch: old.Rev, Profile: p})
	return now, "replaced", err
}

func (a *app) profileList() *cobra.Command {
	var list api.List
	cmd := a.command("list", "List profiles", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		page, err := client.Do(cmd.Context(), c, api.ListProfiles, list)
		if err != nil {
			return err
		}
		return a.show(page, func(t *table) {
			t.row("NAME", "AGENT", "DESCRIPTION")
			for _, p := range page.Items {
				t.row(p.Name, p.Agent.Kind, shorten(p.Description, 70))
			}
			a.more(page.NextCursor)
		})
	})
	listFlags(cmd, &list)
	return cmd
}

func (a *app) profileShow() *cobra.Command {
	return a.command("show NAME", "Show a profile as YAML, ready to edit and apply", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		p, err := client.Do(cmd.Context(), c, api.GetProfile, api.NameRef{Name: args[0]})
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.show(p, nil)
		}
		data, err := formatProfile(p)
		if err != nil {
			return err
		}
		_, err = a.Out.Write(data)
		return err
	})
}

func (a *app) profileDelete() *cobra.Command {
	return a.command("delete NAME", "Delete a profile; its sessions stay", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		_, err := client.Do(cmd.Context(), c, api.DeleteProfile, api.NameRef{Name: args[0]})
		return err
	})
}
