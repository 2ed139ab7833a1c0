package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/standalone/client"
)

func (a *app) webhook() *cobra.Command {
	return group("webhook", "Have addresses told of what happens to tasks and schedules", []string{"webhooks"},
		a.webhookCreate(), a.webhookList(), a.webhookShow(), a.webhookUpdate(), a.webhookDelete(), a.webhookRotate(), a.webhookPing(),
		a.webhookDeliveries(), a.webhookRedeliver())
}

func (a *app) webhookCreate() *cobra.Command {
	var req api.CreateWebhookRequest
	cmd := a.command("create NAME URL", "Create a webhook and print its signing secret, which is shown this once", cobra.ExactArgs(2),
		func(cmd *cobra.Command, c *client.Client, args []string) error {
			req.Name, req.URL = args[0], args[1]
			return a.toldSecret(client.Do(cmd.Context(), c, api.CreateWebhook, req))
		})
	cmd.Long = "Create registers an https address of yours. It is told of the --event types that happen to your tasks (to all of the\n" +
		"tenant's, for an admin), and of the tasks that name it. Each delivery is signed: the header Agentyard-Signature is\n" +
		"t=SECONDS,v1=HEX, the HMAC-SHA-256 under the secret of the seconds, a dot and the body."
	cmd.Example = "  agentyard webhook create ci https://ci.example.com/hook --event 'task.*'"
	cmd.Flags().StringArrayVar(&req.Events, "event", nil, "`type` such as task.failed, task.* or schedule.paused; repeat for more")
	return cmd
}

// toldSecret prints a webhook's newest secret.
func (a *app) toldSecret(w api.WebhookWithSecret, err error) error {
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.show(w, nil)
	}
	a.hint("the signing secret of %s; this is its only showing:", w.Name)
	_, err = fmt.Fprintln(a.Out, w.Secret)
	return err
}

func (a *app) webhookList() *cobra.Command {
	var list api.List
	cmd := a.command("list", "List webhooks, newest first", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		page, err := client.Do(cmd.Context(), c, api.ListWebhooks, list)
		if err != nil {
			return err
		}
		return a.show(page, func(t *table) {
			t.row("NAME", "STATE", "EVENTS", "URL")
			for _, w := range page.Items {
				t.row(w.Name, webhookState(w), or(strings.Join(w.Events, ","), "-"), w.URL)
			}
			a.more(page.NextCursor)
		})
	})
	cmd.Aliases = []string{"ls"}
	listFlags(cmd, &list)
	return cmd
}

func webhookState(w api.Webhook) string {
	if w.Disabled {
		return "disabled"
	}
	return "enabled"
}

func (a *app) webhookShow() *cobra.Command {
	return a.command("show NAME", "Show a webhook", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		return a.showWebhook(client.Do(cmd.Context(), c, api.GetWebhook, api.NameRef{Name: args[0]}))
	})
}

func (a *app) showWebhook(w api.Webhook, err error) error {
	if err != nil {
		return err
	}
	return a.show(w, func(t *table) {
		t.row("name", w.Name)
		t.row("url", w.URL)
		t.row("state", webhookState(w))
		t.field("events", strings.Join(w.Events, ", "))
		t.field("owner", w.Owner)
		t.field("created", stamp(&w.CreatedAt))
		for _, s := range w.Secrets {
			text := s.Prefix + "… of " + stamp(&s.CreatedAt)
			if s.ExpiresAt != nil {
				text += ", signs until " + stamp(s.ExpiresAt)
			}
			t.row("secret", text)
		}
	})
}

func (a *app) webhookUpdate() *cobra.Command {
	var url string
	var events []string
	var disabled bool
	cmd := a.command("update NAME", "Change a webhook's address or events, or disable it", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		req := api.UpdateWebhookRequest{Name: args[0]}
		if cmd.Flags().Changed("address") {
			req.URL = &url
		}
		if cmd.Flags().Changed("event") {
			req.Events = &events
		}
		if cmd.Flags().Changed("disabled") {
			req.Disabled = &disabled
		}
		return a.showWebhook(client.Do(cmd.Context(), c, api.UpdateWebhook, req))
	})
	cmd.Flags().StringVar(&url, "address", "", "the new `URL`")
	cmd.Flags().StringArrayVar(&events, "event", nil, "event `type`, in place of the present ones; repeat for more")
	cmd.Flags().BoolVar(&disabled, "disabled", false, "whether nothing is sent")
	return cmd
}

func (a *app) webhookDelete() *cobra.Command {
	return a.command("delete NAME", "Delete a webhook; what is on its way to it is given up", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		_, err := client.Do(cmd.Context(), c, api.DeleteWebhook, api.NameRef{Name: args[0]})
		return err
	})
}

func (a *app) webhookRotate() *cobra.Command {
	var overlap time.Duration
	cmd := a.command("rotate NAME", "Give a webhook a new secret and print it; the old one signs too for a while", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *client.Client, args []string) error {
			req := api.RotateWebhookRequest{Name: args[0]}
			if cmd.Flags().Changed("overlap") {
				d := api.Duration(overlap)
				req.Overlap = &d
			}
			return a.toldSecret(client.Do(cmd.Context(), c, api.RotateWebhook, req))
		})
	cmd.Flags().DurationVar(&overlap, "overlap", 0, "how long the old secret signs beside the new one, at most 168h (default 24h)")
	return cmd
}

func (a *app) webhookPing() *cobra.Command {
	return a.command("ping NAME", "Send a webhook an event of type ping", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		return a.toldDelivery(client.Do(cmd.Context(), c, api.PingWebhook, api.NameRef{Name: args[0]}))
	})
}

func (a *app) toldDelivery(d api.Delivery, err error) error {
	if err != nil {
		return err
	}
	return a.show(d, func(t *table) { t.row(d.ID, string(d.State)) })
}

func (a *app) webhookDeliveries() *cobra.Command {
	var req api.ListDeliveriesRequest
	var state string
	cmd := a.command("deliveries NAME", "List what was or will be sent to a webhook, newest first", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		req.Name, req.State = args[0], api.DeliveryState(state)
		page, err := client.Do(cmd.Context(), c, api.ListDeliveries, req)
		if err != nil {
			return err
		}
		return a.show(page, func(t *table) {
			t.row("ID", "EVENT", "STATE", "ATTEMPTS", "STATUS", "CREATED", "PROBLEM")
			now := time.Now()
			for _, d := range page.Items {
				status := "-"
				if d.Status != 0 {
					status = strconv.Itoa(d.Status)
				}
				t.row(d.ID, d.EventType, string(d.State), strconv.Itoa(d.Attempts), status, ago(now, d.CreatedAt), d.Problem)
			}
			a.more(page.NextCursor)
		})
	})
	cmd.Flags().StringVar(&state, "state", "", "only those that are pending, delivered or failed")
	listFlags(cmd, &req.List)
	return cmd
}

func (a *app) webhookRedeliver() *cobra.Command {
	return a.command("redeliver NAME DELIVERY", "Send a failed delivery again", cobra.ExactArgs(2), func(cmd *cobra.Command, c *client.Client, args []string) error {
		return a.toldDelivery(client.Do(cmd.Context(), c, api.Redeliver, api.RedeliverRequest{Name: args[0], ID: args[1]}))
	})
}
