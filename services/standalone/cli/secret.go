package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

// maxSecretInput is more than the server takes, so that it says what is wrong.
const maxSecretInput = 1 << 20

func (a *app) secret() *cobra.Command {
	return group("secret", "Store values that profiles give to sessions and nobody reads again", []string{"secrets"}, a.secretSet(), a.secretList(), a.secretDelete())
}

// scopeFlag adds --tenant and returns the scope that it says.
func scopeFlag(cmd *cobra.Command) func() api.Scope {
	tenant := cmd.Flags().Bool("tenant", false, "the tenant's, which its admins write, rather than your own")
	return func() api.Scope {
		if *tenant {
			return api.ScopeTenant
		}
		return api.ScopeUser
	}
}

func (a *app) secretSet() *cobra.Command {
	var scope func() api.Scope
	cmd := a.command("set NAME", "Store a secret, whose value is read from standard input", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		if tty(a.In) {
			a.hint("type the value, then Ctrl-D:")
		}
		data, err := io.ReadAll(io.LimitReader(a.In, maxSecretInput))
		if err != nil {
			return fmt.Errorf("read the value: %w", err)
		}
		value := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
		if value == "" {
			return usage(errors.New("no value came on standard input"))
		}
		s, err := client.Do(cmd.Context(), c, api.PutSecret, api.PutSecretRequest{Name: args[0], Scope: scope(), Value: value})
		if err != nil {
			return err
		}
		return a.show(s, func(t *table) { t.row(s.Name, "stored") })
	})
	cmd.Long = "Set stores a value of at most 64 KiB under a name that profiles refer to. It is not an argument, which others on the\n" +
		"machine could see. One newline at its end is left out."
	cmd.Example = "  agentyard secret set api-token < token.txt"
	scope = scopeFlag(cmd)
	return cmd
}

func (a *app) secretList() *cobra.Command {
	var req api.ListSecretsRequest
	var scope func() api.Scope
	cmd := a.command("list", "List the names of secrets", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		req.Scope = scope()
		page, err := client.Do(cmd.Context(), c, api.ListSecrets, req)
		if err != nil {
			return err
		}
		return a.show(page, func(t *table) {
			t.row("NAME", "SCOPE", "UPDATED", "BY")
			now := time.Now()
			for _, s := range page.Items {
				t.row(s.Name, string(s.Scope), ago(now, s.UpdatedAt), s.UpdatedBy)
			}
			a.more(page.NextCursor)
		})
	})
	cmd.Aliases = []string{"ls"}
	scope = scopeFlag(cmd)
	listFlags(cmd, &req.List)
	return cmd
}

func (a *app) secretDelete() *cobra.Command {
	var scope func() api.Scope
	cmd := a.command("delete NAME", "Delete a secret; running sessions keep it", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		_, err := client.Do(cmd.Context(), c, api.DeleteSecret, api.SecretRequest{Name: args[0], Scope: scope()})
		return err
	})
	scope = scopeFlag(cmd)
	return cmd
}
