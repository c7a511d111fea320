package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/control/api"
)

func (c *cli) eventsCommand() *cobra.Command {
	var follow bool
	var n int
	cmd := &cobra.Command{
		Use:   "events [--follow] [-n N]",
		Short: "Show what happened, oldest first",
		Long: `Shows the last events: failovers, exhausted and recovered pools, targets that came and went. With --follow it goes
on with each further one until Ctrl-C, and across restarts of the daemon; -o json is one object a line then.`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n < 1 || n > 1000 {
				return usageError{fmt.Sprintf("-n %d: must be from 1 to 1000", n)}
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			if follow {
				ctx, stop := untilEnded(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
				defer stop()
				return c.follow(ctx, client, n)
			}
			events, err := client.Events(cmd.Context(), n)
			if err != nil {
				return err
			}
			return c.print(events, func() {
				if len(events) == 0 {
					fmt.Fprintln(c.stderr, "nothing has happened yet")
				}
				for _, event := range events {
					fmt.Fprintln(c.stdout, c.eventLine(event))
				}
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until Ctrl-C")
	cmd.Flags().IntVarP(&n, "lines", "n", 20, "the last `N` events")
	return cmd
}

func (c *cli) printEvent(event api.Event) error {
	if c.format == formatJSON {
		encoder := json.NewEncoder(c.stdout)
		encoder.SetEscapeHTML(false)
		return encoder.Encode(event)
	}
	_, err := fmt.Fprintln(c.stdout, c.eventLine(event))
	return err
}

// eventLine is an event on one line, with what is empty left out.
func (c *cli) eventLine(e api.Event) string {
	words := []string{e.Time.Local().Format("2006-01-02 15:04:05"), e.Kind}
	for _, part := range []struct{ name, value string }{
		{"pool", e.Pool},
		{"member", e.Member},
		{"to", e.To},
		{"target", e.Target},
		{"reason", e.Reason},
		{"detail", e.Detail},
		{"by", e.Actor},
	} {
		if part.value == "" {
			continue
		}
		if strings.ContainsAny(part.value, " \t\n\"") || part.value != printable(part.value) {
			part.value = fmt.Sprintf("%q", part.value)
		}
		words = append(words, part.name+"="+part.value)
	}
	return strings.Join(words, " ")
}
