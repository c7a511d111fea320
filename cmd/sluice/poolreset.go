package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/monitor/notice"
	"github.com/sluice-proxy/sluice/reset"
)

// agentFlags say where a pool's agent runs and how it is reset.
type agentFlags struct{ target, profile, container string }

func (a *agentFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.target, "auth-reset-target", "", "what the agent's auth is reset for when the pool recovers, such as openai-codex")
	cmd.Flags().StringVar(&a.profile, "agent-profile", "", "how the agent is reset: hermes (also if not given) or a profile of the configuration")
	oneOf(cmd, "agent-profile", reset.DefaultProfile)
	cmd.Flags().StringVar(&a.container, "container", "", "container in which the agent is reset, else whatever is attached for the pool")
}

func (a *agentFlags) into(spec *api.PoolSpec) {
	spec.AuthResetTarget, spec.AgentProfile, spec.Container = optional(a.target), optional(a.profile), optional(a.container)
}

// describeReset is what `pool status` shows of it.
func describeReset(p api.PoolStatus) []string {
	if p.AuthResetTarget == "" {
		return nil
	}
	where := "whatever is attached for the pool"
	if p.Container != "" {
		where = "container " + p.Container
	}
	profile := p.AgentProfile
	if profile == "" {
		profile = reset.DefaultProfile
	}
	return []string{"resets", fmt.Sprintf("%s of %s in %s", p.AuthResetTarget, profile, where)}
}

func (c *cli) poolSetAuthResetCommand() *cobra.Command {
	var off bool
	cmd := &cobra.Command{
		Use:   "set-auth-reset NAME TARGET | NAME --clear",
		Short: "Have the agent's auth reset when the pool recovers",
		Long: `Some agents write down that they were refused and ask no more, long after the pool is back. With a target set,
sluice runs the agent's own reset where the agent runs when the pool has recovered: for hermes, 'hermes auth reset
TARGET'. --clear switches that off.`,
		Example: `  sluice pool set-auth-reset main openai-codex
  sluice pool reset-agent main --dry-run`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case off && len(args) != 1:
				return usageError{"sluice pool set-auth-reset NAME --clear takes the pool's name alone"}
			case !off && len(args) != 2:
				return usageError{"sluice pool set-auth-reset needs NAME and TARGET, or NAME and --clear"}
			}
			return nil
		},
		ValidArgsFunction: c.complete(c.poolNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			target := ""
			if !off {
				if target = args[1]; target == "" {
					return usageError{"sluice pool set-auth-reset: the target is empty: --clear switches the reset off"}
				}
			}
			status, err := client.SetAuthResetTarget(cmd.Context(), args[0], target)
			if err != nil {
				return err
			}
			return c.printPool(status)
		},
	}
	cmd.Flags().BoolVar(&off, "clear", false, "no reset any more")
	return cmd
}

func (c *cli) poolResetAgentCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use: "reset-agent NAME", Short: "Reset the auth of the pool's agents now",
		Long: `Runs what is run when the pool recovers, whether or not an agent was told anything, and waits for it: in the pool's
container, or in everything that is attached for the pool. With --dry-run it only says what would be run.`,
		Args: arguments("NAME"), ValidArgsFunction: c.complete(c.poolNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			report, err := client.ResetAgents(cmd.Context(), args[0], dryRun)
			if err != nil {
				return err
			}
			if err := c.print(report, func() { c.printResets(report) }); err != nil {
				return err
			}
			return resetError(report)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "run nothing, show what would be run")
	return cmd
}

func (c *cli) printResets(report api.ResetReport) {
	for i, a := range report.Agents {
		if i > 0 {
			fmt.Fprintln(c.stdout)
		}
		pairs := []string{"agent", string(a.Kind) + " " + a.Agent}
		if len(a.Argv) > 0 {
			pairs = append(pairs, "command", quoted(a.Argv), "user", a.User, "environment", list(a.Environment),
				"time-out", fmt.Sprintf("%ds", a.TimeoutSeconds))
		}
		if !report.DryRun {
			pairs = append(pairs, "result", result(a))
		} else if a.Reason != "" {
			pairs = append(pairs, "cannot be run", a.Reason)
		}
		c.fields(pairs...)
		if text := strings.TrimRight(a.Output, "\n"); text != "" {
			fmt.Fprintf(c.stdout, "\n%s\n", printable(text))
		}
	}
}

func result(a api.AgentReset) string {
	if a.Succeeded {
		return "succeeded"
	}
	return "failed: " + a.Reason
}

// quoted shows where an argument begins and ends; nothing reads it as a shell would.
func quoted(argv []string) string {
	shown := make([]string, len(argv))
	for i, arg := range argv {
		if shown[i] = arg; arg == "" || strings.ContainsFunc(arg, func(r rune) bool { return r <= ' ' || r == '"' || r == 0x7f }) {
			shown[i] = fmt.Sprintf("%q", arg)
		}
	}
	return strings.Join(shown, " ")
}

// printable keeps what an agent's command wrote from steering the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || 0x80 <= r && r < 0xa0 {
			return -1
		}
		return r
	}, text)
}

// resetError is why the command fails; nil if every agent was reset, or could be.
func resetError(report api.ResetReport) error {
	failed := 0
	for _, a := range report.Agents {
		if a.Reason != "" {
			failed++
		}
	}
	switch {
	case failed == 0:
		return nil
	case report.DryRun:
		return fmt.Errorf("reset-agent: %d of %s of pool %q cannot be reset", failed, notice.Count(len(report.Agents), "agent"), report.Pool)
	}
	return fmt.Errorf("reset-agent: %d of %s of pool %q could not be reset", failed, notice.Count(len(report.Agents), "agent"), report.Pool)
}
