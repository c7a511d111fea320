package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/control/api"
)

func (c *cli) targetsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "targets", Short: "List what is attached, as the kernel has it, and what waits to be", Args: arguments(),
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
					if t.Reason != "" && !remarkable(t.State) {
						state += " (" + printable(t.Reason) + ")"
					}
					rows = append(rows, []any{t.Id, state, printable(about(t)), dash(printable(t.Cgroup)), numbers(t.Namespaces), list(t.Pools), t.Connections})
				}
				c.table("nothing is attached: 'sluice run' and 'sluice attach' do that",
					[]any{"id", "state", "what", "cgroup", "namespaces", "pools", "connections"}, rows)
				for _, t := range targets {
					c.remark(t.Id, t.State, t.Reason)
					c.warnUntrusting(t.Id, t.Untrusting)
				}
				c.warnUnserved(targets)
			})
		},
	}
}

// remark says on standard error what is to be said of a target that is well.
func (c *cli) remark(id string, state api.TargetState, reason string) {
	if reason != "" && remarkable(state) {
		fmt.Fprintf(c.stderr, "target %s: %s\n", id, printable(reason))
	}
}

// remarkable are the states that are well: a reason is a remark, then, and no cause.
func remarkable(s api.TargetState) bool {
	return s == api.TargetStateAttached || s == api.TargetStateWatching
}

// mostUnserved is how many of the targets that no pool serves are named to people; programs get all.
const mostUnserved = 20

// warnUnserved names the targets that no pool serves, a line each, with the way out.
func (c *cli) warnUnserved(targets []api.Target) {
	told, more := 0, 0
	for _, t := range targets {
		switch {
		case !t.Unserved:
		case told == mostUnserved:
			more++
		default:
			told++
			fmt.Fprintf(c.stderr, "target %s: %s; %s\n", t.Id, unserved, servedBy(t))
		}
	}
	if more > 0 {
		fmt.Fprintf(c.stderr, "and %d more that no pool serves: 'sluice targets -o json' has them\n", more)
	}
}

const unserved = "no pool serves it: what it sends goes out as it is, with what the agent holds for a credential"

// servedBy is what a person can do about a target that no pool serves.
func servedBy(t api.Target) string {
	wanted := "a pool"
	if len(t.Pools) > 0 {
		wanted = "pool " + strings.Join(t.Pools, " or ")
	}
	return fmt.Sprintf("create %s, or 'sluice detach %s'", wanted, t.Id)
}

// mostUntrusting is how many of a target's processes are named to people; programs get all.
const mostUntrusting = 10

// warnUntrusting says, a line each, which processes of a target do not trust the CA, and the way out.
func (c *cli) warnUntrusting(id string, all []api.Untrusting) {
	for i, u := range all {
		if i == mostUntrusting {
			fmt.Fprintf(c.stderr, "target %s: and %d more that do not trust the CA\n", id, len(all)-i)
			return
		}
		fmt.Fprintf(c.stderr, "target %s: does not trust the CA: %s; %s\n", id, untrusting(u), u.WayOut)
	}
}

func untrusting(u api.Untrusting) string {
	return fmt.Sprintf("%s (pid %d) %s", u.Process, u.Pid, u.Reason)
}

// about is what a target stands for.
func about(t api.Target) string {
	switch t.Kind {
	case api.TargetKindContainer:
		text := t.Container
		if t.Runtime != "" {
			text = t.Runtime + " " + text
		}
		if t.Namespace != "" {
			text += " (namespace " + t.Namespace + ")"
		}
		if t.Selector != "" {
			text += ", by " + t.Selector
		}
		return text
	case api.TargetKindSelector:
		return "containers with " + t.Selector
	case api.TargetKindUnit:
		return "unit " + t.Unit
	case api.TargetKindPid:
		return "process " + t.Ref
	}
	return string(t.Kind)
}

// called is what a sentence says of a target.
func called(t api.Target) string {
	if t.Cgroup == "" || t.Kind == api.TargetKindContainer {
		return about(t)
	}
	return t.Cgroup
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
