package cli

import "github.com/spf13/cobra"

func (a *app) up() *cobra.Command       { return &cobra.Command{Use: "up"} }
func (a *app) hidden() []*cobra.Command { return nil }
