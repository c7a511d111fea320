package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func (c *cli) targetsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "targets", Short: "List the attached cgroups, as the kernel has them", Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			targets, err := client.Targets(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(targets, func() {
				rows := make([][]any, 0, len(targets))
				for _, t := range targets {
					state := c.state(string(t.State))
					if t.Reason != "" {
						state += " (" + t.Reason + ")"
					}
					rows = append(rows, []any{t.Id, state, t.Cgroup, numbers(t.Namespaces), list(t.Pools), t.Connections})
				}
				c.table("nothing is attached: 'sluice run' and 'sluice attach' do that",
					[]any{"id", "state", "cgroup", "namespaces", "pools", "connections"}, rows)
			})
		},
	}
}

func numbers(values []uint64) string {
	if len(values) == 0 {
		return "-"
	}
	words := make([]string, 0, len(values))
	for _, value := range values {
		words = append(words, strconv.FormatUint(value, 10))
	}
	return strings.Join(words, ",")
}
