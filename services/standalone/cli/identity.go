package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

// command returns a command that asks the server.
func (a *app) command(use, short string, args cobra.PositionalArgs, run func(*cobra.Command, *client.Client, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return run(cmd, c, args)
		},
	}
}

func (a *app) keys() *cobra.Command {
	return group("keys", "Manage API keys", []string{"key"}, a.keysCreate(), a.keysList(), a.keysRevoke())
}

func (a *app) keysCreate() *cobra.Command {
	var req api.CreateKeyRequest
	var expires time.Duration
	var scopes []string
	cmd := a.command("create NAME", "Create an API key and print its secret, which is shown this once", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *client.Client, args []string) error {
			req.Name, req.ExpiresIn = args[0], api.Duration(expires)
			for _, s := range scopes {
				req.Scopes = append(req.Scopes, api.Permission(s))
			}
			k, err := client.Do(cmd.Context(), c, api.CreateKey, req)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.show(k, nil)
			}
			a.hint("key %s; this is its only showing:", k.ID)
			_, err = fmt.Fprintln(a.Out, k.Secret)
			return err
		})
	cmd.Flags().StringVar(&req.User, "user", "", "id of the user to make it for (default: yourself)")
	cmd.Flags().DurationVar(&expires, "expires-in", 0, "life of the key (default: without end)")
	cmd.Flags().StringSliceVar(&scopes, "scope", nil, "`permission` to narrow the key to, such as session:read; repeat for more")
	return cmd
}

func (a *app) keysList() *cobra.Command {
	var req api.ListKeysRequest
	cmd := a.command("list", "List API keys", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		page, err := client.Do(cmd.Context(), c, api.ListKeys, req)
		if err != nil {
			return err
		}
		return a.show(page, func(t *table) {
			t.row("ID", "NAME", "PREFIX", "USER", "CREATED", "LAST USED", "STATE")
			now := time.Now()
			for _, k := range page.Items {
				used := "never"
				if k.LastUsedAt != nil {
					used = ago(now, *k.LastUsedAt)
				}
				t.row(k.ID, k.Name, k.Prefix, k.User, ago(now, k.CreatedAt), used, keyState(k, now))
			}
			a.more(page.NextCursor)
		})
	})
	cmd.Flags().StringVar(&req.User, "user", "", "only this user's")
	listFlags(cmd, &req.List)
	return cmd
}

func keyState(k api.Key, now time.Time) string {
	switch {
	case k.RevokedAt != nil:
		return "revoked"
	case k.ExpiresAt != nil && k.ExpiresAt.Before(now):
		return "expired"
	case k.ExpiresAt != nil:
		return "until " + stamp(k.ExpiresAt)
	}
	return "valid"
}

func (a *app) keysRevoke() *cobra.Command {
	return a.command("revoke ID", "Revoke an API key", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		k, err := client.Do(cmd.Context(), c, api.RevokeKey, api.IDRef{ID: args[0]})
		if err != nil {
			return err
		}
		return a.show(k, func(t *table) { t.row(k.ID, "revoked") })
	})
}

func (a *app) users() *cobra.Command {
	return group("users", "Manage the users of your tenant", []string{"user"},
		a.usersList(), a.usersMe(), a.usersCreate(), a.usersUpdate(), a.usersDelete())
}

func (a *app) usersList() *cobra.Command {
	var req api.ListUsersRequest
	cmd := a.command("list", "List users", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		page, err := client.Do(cmd.Context(), c, api.ListUsers, req)
		if err != nil {
			return err
		}
		return a.show(page, func(t *table) {
			t.row("ID", "NAME", "ROLES", "EMAIL", "STATE")
			for _, u := range page.Items {
				userRow(t, u)
			}
			a.more(page.NextCursor)
		})
	})
	cmd.Flags().StringVarP(&req.Query, "query", "q", "", "only users with this text in their name")
	listFlags(cmd, &req.List)
	return cmd
}

func userRow(t *table, u api.User) {
	state := "active"
	if u.Disabled {
		state = "disabled"
	}
	t.row(u.ID, u.Name, roleText(u.Roles), u.Email, state)
}

func (a *app) usersMe() *cobra.Command {
	return a.command("me", "Show who you are", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		u, err := client.Do(cmd.Context(), c, api.GetMe, api.None{})
		if err != nil {
			return err
		}
		return a.show(u, func(t *table) {
			t.row("id", u.ID)
			t.row("name", u.Name)
			t.row("tenant", u.Tenant)
			t.row("roles", roleText(u.Roles))
			t.field("email", u.Email)
		})
	})
}

func (a *app) usersCreate() *cobra.Command {
	var req api.CreateUserRequest
	var roles []string
	cmd := a.command("create NAME", "Create a user", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		req.Name, req.Roles = args[0], parseRoles(roles)
		u, err := client.Do(cmd.Context(), c, api.CreateUser, req)
		if err != nil {
			return err
		}
		a.hint("give it a key: agentyard keys create NAME --user %s", u.ID)
		return a.show(u, func(t *table) { userRow(t, u) })
	})
	cmd.Flags().StringSliceVar(&roles, "role", nil, "role: admin, member, viewer or service; repeat for more (default member)")
	cmd.Flags().StringVar(&req.Email, "email", "", "e-mail address")
	cmd.Flags().IntVar(&req.MaxSessions, "max-sessions", 0, "how many sessions it may have at once")
	return cmd
}

func (a *app) usersUpdate() *cobra.Command {
	var roles []string
	var disabled bool
	var sessions int
	cmd := a.command("update ID", "Change a user's roles or limits, or disable it", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		req := api.UpdateUserRequest{ID: args[0]}
		if cmd.Flags().Changed("role") {
			rs := parseRoles(roles)
			req.Roles = &rs
		}
		if cmd.Flags().Changed("disabled") {
			req.Disabled = &disabled
		}
		if cmd.Flags().Changed("max-sessions") {
			req.MaxSessions = &sessions
		}
		u, err := client.Do(cmd.Context(), c, api.UpdateUser, req)
		if err != nil {
			return err
		}
		return a.show(u, func(t *table) { userRow(t, u) })
	})
	cmd.Flags().StringSliceVar(&roles, "role", nil, "roles, in place of the present ones")
	cmd.Flags().BoolVar(&disabled, "disabled", false, "whether the user is disabled")
	cmd.Flags().IntVar(&sessions, "max-sessions", 0, "how many sessions it may have at once; 0: the default")
	return cmd
}

func (a *app) usersDelete() *cobra.Command {
	return a.command("delete ID", "Delete a user and revoke its keys", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		_, err := client.Do(cmd.Context(), c, api.DeleteUser, api.IDRef{ID: args[0]})
		return err
	})
}

func (a *app) tenants() *cobra.Command {
	return group("tenants", "Manage tenants (the operator's own tenant only)", []string{"tenant"}, a.tenantsCreate(), a.tenantsList())
}

func (a *app) tenantsCreate() *cobra.Command {
	var req api.CreateTenantRequest
	cmd := a.command("create NAME", "Create a tenant and print its admin's key, which is shown this once", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *client.Client, args []string) error {
			req.Name = args[0]
			t, err := client.Do(cmd.Context(), c, api.CreateTenant, req)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.show(t, nil)
			}
			_, err = fmt.Fprintln(a.Out, t.AdminKey)
			return err
		})
	cmd.Flags().StringVar(&req.Title, "title", "", "title")
	cmd.Flags().IntVar(&req.MaxSessions, "max-sessions", 0, "how many sessions it may have at once")
	return cmd
}

func (a *app) tenantsList() *cobra.Command {
	var list api.List
	cmd := a.command("list", "List the tenants that you may see", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		page, err := client.Do(cmd.Context(), c, api.ListTenants, list)
		if err != nil {
			return err
		}
		return a.show(page, func(t *table) {
			t.row("NAME", "TITLE", "CREATED")
			for _, tn := range page.Items {
				t.row(tn.Name, tn.Title, stamp(&tn.CreatedAt))
			}
			a.more(page.NextCursor)
		})
	})
	listFlags(cmd, &list)
	return cmd
}

func parseRoles(names []string) []api.Role {
	var roles []api.Role
	for _, n := range names {
		roles = append(roles, api.Role(n))
	}
	return roles
}

func roleText(roles []api.Role) string {
	var names []string
	for _, r := range roles {
		names = append(names, string(r))
	}
	return strings.Join(names, ",")
}
