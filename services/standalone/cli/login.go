package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

func (a *app) login() *cobra.Command {
	var keyFile string
	cmd := &cobra.Command{
		Use: "login URL", Short: "Store the address of a server and an API key for it",
		Long: "Login asks for an API key (or reads it from --key-file or standard input), tries it on the\n" +
			"server and stores both in ~/.config/agentyard/config.json, readable by you alone.",
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := a.readKey(keyFile)
			if err != nil {
				return err
			}
			c, err := client.New(args[0], key)
			if err != nil {
				return usage(err)
			}
			me, err := client.Do(cmd.Context(), c, api.GetMe, api.None{})
			if err != nil {
				return err
			}
			file, err := a.store(credential{URL: c.URL(), Key: key})
			if err != nil {
				return fmt.Errorf("store the credential: %w", err)
			}
			a.hint("stored in %s", file)
			return a.show(me, func(t *table) {
				t.row("signed in to", c.URL())
				t.row("as", me.Name+" of tenant "+me.Tenant)
			})
		},
	}
	cmd.Flags().StringVar(&keyFile, "key-file", "", "read the key from this `file`")
	return cmd
}

func (a *app) readKey(file string) (string, error) {
	var data []byte
	var err error
	switch {
	case file != "":
		data, err = os.ReadFile(file)
	case tty(a.In):
		fmt.Fprint(a.Err, "API key: ")
		data, err = term.ReadPassword(int(a.In.(*os.File).Fd()))
		fmt.Fprintln(a.Err)
	default:
		var text string
		text, _ = bufio.NewReader(a.In).ReadString('\n')
		data = []byte(text)
	}
	key := strings.TrimSpace(string(data))
	switch {
	case err != nil:
		return "", fmt.Errorf("read the key: %w", err)
	case key == "":
		return "", usage(errors.New("no key was given"))
	}
	return key, nil
}

func (a *app) logout() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "Forget the stored server and key", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			file, err := a.configFile()
			if err != nil {
				return err
			}
			if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			a.hint("the key itself stays valid: revoke it with 'agentyard keys revoke'")
			return nil
		},
	}
}
