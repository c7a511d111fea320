package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

func (c *cli) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what the daemon is doing, counted", Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			s, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(s, func() {
				pairs := []string{
					"version", s.Build.Version,
					"up", span(time.Duration(s.UptimeSeconds) * time.Second),
					"state dir", s.StateDir,
					"pin dir", s.PinDir,
					"pools", fmt.Sprintf("%d (%d healthy, %d degraded, %d exhausted)",
						s.Pools.Total, s.Pools.Healthy, s.Pools.Degraded, s.Pools.Exhausted),
					"targets", strconv.Itoa(s.Targets),
					"connections", strconv.Itoa(s.Connections),
				}
				for _, name := range slices.Sorted(maps.Keys(s.Counters)) {
					if s.Counters[name] > 0 {
						pairs = append(pairs, name, strconv.FormatUint(s.Counters[name], 10))
					}
				}
				c.fields(pairs...)
			})
		},
	}
}
