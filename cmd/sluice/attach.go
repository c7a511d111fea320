package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/control/api"
)

func (c *cli) attachCommand() *cobra.Command {
	var dir string
	var pid int
	var pools []string
	cmd := &cobra.Command{
		Use:   "attach (--cgroup PATH | --pid PID) [--pool NAME]...",
		Short: "Attach to what is already running, and print the target's id",
		Long: `Attaches a cgroup: from then on what its processes connect to is intercepted, and its requests to bound hosts
carry the credentials of the pools. The target is remembered when sluice is started again.

With --pid it is the cgroup that the process is in: everything else in there is attached with it.

Connections to bound ports that were open before are closed, so that they are opened anew through sluice. A process that
has already loaded its CA certificates goes on with those: 'sluice ca show' prints what it has to trust.`,
		Example: `  sudo sluice attach --cgroup /sys/fs/cgroup/system.slice/agent.service
  sudo sluice attach --pid "$(pgrep -o my-agent)" --pool main`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (dir == "") == (pid == 0) {
				return usageError{"sluice attach needs either --cgroup or --pid"}
			}
			if pid < 0 {
				return usageError{fmt.Sprintf("--pid %d: not a process id", pid)}
			}
			spec := api.TargetSpec{Pid: optional(pid)}
			if dir != "" {
				absolute, err := filepath.Abs(dir)
				if err != nil {
					return fmt.Errorf("--cgroup %s: %w", dir, err)
				}
				spec.Cgroup = &absolute
			}
			if len(pools) > 0 {
				spec.Pools = &pools
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			target, err := client.Attach(cmd.Context(), spec)
			if err != nil {
				return fmt.Errorf("attach: %w", err)
			}
			return c.done(target, target.Id)
		},
	}
	cmd.Flags().StringVar(&dir, "cgroup", "", "directory of a cgroup v2 group")
	cmd.Flags().IntVar(&pid, "pid", 0, "process whose cgroup to attach")
	cmd.Flags().StringArrayVar(&pools, "pool", nil, "only this pool serves the target; may be given several times")
	c.completeFlag(cmd, "pool", c.poolNames)
	return cmd
}
