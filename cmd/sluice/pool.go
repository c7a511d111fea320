package main

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/pool"
)

func (c *cli) poolCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "pool",
		Short: "Pools: credentials in an order, one of them active",
		Long: `A pool is a list of credentials and the hosts they are for. One member is active: its credential goes into
every request to those hosts. When the upstream refuses it, it cools down for as long as the upstream says, and the
next member in the order is active from then on.`,
	},
		c.poolCreateCommand(), c.poolListCommand(), c.poolStatusCommand(), c.poolRotateCommand(), c.poolRemoveCommand(),
		c.poolAddMemberCommand(), c.poolRemoveMemberCommand(), c.poolClearCommand(),
		c.poolSetAuthResetCommand(), c.poolResetAgentCommand(),
	)
}

func (c *cli) poolCreateCommand() *cobra.Command {
	var spec api.PoolSpec
	var provider, header string
	var members, hosts, providers []string
	var hold time.Duration
	var agent agentFlags
	cmd := &cobra.Command{
		Use:   "create NAME --members A,B[,C] (--provider P | --host H[:PORT]... --header 'Name: value with {token}')",
		Short: "Create a pool",
		Long: `Creates a pool. The members are names of credentials and their order counts: the first one becomes active.

A provider is a preset of host, header and placeholder: openai, anthropic, codex, gemini, openrouter or github.
Without one, say which hosts the credentials are for and in which header they go; {token} stands for the secret.
--host and --header given together with --provider win over the preset.

With every member out a request is answered 429 at once. With --hold it waits instead, if the soonest member is back
within that time: for agents that take one 429 for the end.`,
		Example: `  sluice pool create main --members work,spare --provider openai
  sluice pool create internal --members a,b --host llm.example.com --host llm2.example.com:8443 \
      --header 'Authorization: Bearer {token}'`,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(members) == 0 {
				return usageError{"sluice pool create needs --members: the names of one or more credentials"}
			}
			if slices.Contains(members, "") {
				return usageError{fmt.Sprintf("--members %s: a name between the commas is empty", strings.Join(members, ","))}
			}
			if provider == "" && (len(hosts) == 0 || header == "") {
				return usageError{"sluice pool create needs --provider, or both --host and --header"}
			}
			spec.Name, spec.Members, spec.Provider = args[0], members, optional(provider)
			bindings, err := bindingSpecs(hosts, header)
			if err != nil {
				return err
			}
			spec.Bindings = bindings
			agent.into(&spec)
			if hold%time.Second != 0 || hold < 0 || hold > pool.MaxHold {
				return usageError{fmt.Sprintf("--hold %s: whole seconds are needed, such as 30s or 2m, and at most %s", hold, span(pool.MaxHold))}
			}
			if seconds := int64(hold / time.Second); seconds > 0 {
				spec.HoldSeconds = &seconds
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			made, err := client.CreatePool(cmd.Context(), spec)
			if err != nil {
				return fmt.Errorf("create pool %q: %w", spec.Name, err)
			}
			return c.done(made, made.Name)
		},
	}
	cmd.Flags().StringSliceVar(&members, "members", nil, "credentials in their order, as `A,B`")
	cmd.Flags().StringVar(&provider, "provider", "", "preset: openai, anthropic, codex, gemini, openrouter or github")
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "`HOST[:PORT]` to bind; may be given several times; port 443 unless said")
	cmd.Flags().StringVar(&header, "header", "", "header that carries the credential, `'Name: value with {token}'`")
	cmd.Flags().DurationVar(&hold, "hold", 0, "how long a request may wait for a member to come back, at most 10m")
	agent.add(cmd)
	c.completeList(cmd, "members", c.freeCredentials)
	for _, p := range pool.Providers() {
		providers = append(providers, p.Name)
	}
	oneOf(cmd, "provider", providers...)
	return cmd
}

// bindingSpecs makes the bindings out of --host and --header. A header without
// a host is for the hosts of the preset, which the daemon knows.
func bindingSpecs(hosts []string, header string) (*[]api.BindingSpec, error) {
	if len(hosts) == 0 && header != "" {
		return nil, usageError{"--header needs --host: the preset brings its own header for its own hosts"}
	}
	if len(hosts) == 0 {
		return nil, nil
	}
	bindings := make([]api.BindingSpec, 0, len(hosts))
	for _, given := range hosts {
		if strings.Contains(given, "://") {
			return nil, usageError{fmt.Sprintf("--host %s: is a URL: give the host alone, as in '--host api.example.com'", given)}
		}
		binding := api.BindingSpec{Host: given, Header: optional(header)}
		if host, port, err := net.SplitHostPort(given); err == nil {
			number, err := strconv.ParseUint(port, 10, 16)
			if err != nil || number == 0 {
				return nil, usageError{fmt.Sprintf("--host %s: the port is not a number from 1 to 65535", given)}
			}
			asInt := int(number)
			binding.Host, binding.Port = host, &asInt
		} else if strings.HasSuffix(given, ":") || given == "" {
			return nil, usageError{fmt.Sprintf("--host %q: not of the form HOST or HOST:PORT", given)}
		}
		bindings = append(bindings, binding)
	}
	return &bindings, nil
}

func (c *cli) poolListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the pools", Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			pools, err := client.Pools(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(pools, func() {
				rows := make([][]any, 0, len(pools))
				for _, p := range pools {
					rows = append(rows, []any{
						p.Name, c.state(string(p.State)), dash(p.Active), list(p.Members), list(hostsOf(p.Bindings)), c.moment(p.RecoversAt),
					})
				}
				c.table("there is no pool: 'sluice pool create' makes one",
					[]any{"name", "state", "active", "members", "hosts", "recovers"}, rows)
			})
		},
	}
}

func hostsOf(bindings []api.Binding) []string {
	hosts := make([]string, 0, len(bindings))
	for _, b := range bindings {
		if b.Port == 443 {
			hosts = append(hosts, b.Host)
		} else {
			hosts = append(hosts, net.JoinHostPort(b.Host, strconv.Itoa(b.Port)))
		}
	}
	return hosts
}

func (c *cli) poolStatusCommand() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "status NAME [--watch]", Short: "Show a pool and the state of each member",
		Long: `Shows a pool. Each member is active (the one in use), standby (eligible, not in use), in cooldown (until the
instant that is shown) or parked (rotated away by a person, until it is chosen again).

With --watch it goes on until Ctrl-C: on a terminal in one place, on a pipe and with -o json with one line for what
is, and one for each change. It outlives a restart of the daemon, and ends when the pool is removed.`,
		Args: arguments("NAME"), ValidArgsFunction: c.complete(c.poolNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if watch {
				ctx, stop := untilEnded(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
				defer stop()
				return c.watchPool(ctx, client, args[0])
			}
			status, err := client.Pool(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.printPool(status)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on until Ctrl-C")
	return cmd
}

func (c *cli) printPool(p api.PoolStatus) error {
	return c.print(p, func() {
		pairs := []string{
			"pool", p.Name, "state", c.state(string(p.State)), "active", dash(p.Active),
			"provider", dash(p.Provider), "hosts", list(hostsOf(p.Bindings)), "recovers", c.moment(p.RecoversAt),
		}
		if p.HoldSeconds > 0 {
			pairs = append(pairs, "holds", "requests for up to "+(time.Duration(p.HoldSeconds)*time.Second).String())
		}
		c.fields(append(pairs, describeReset(p)...)...)
		fmt.Fprintln(c.stdout)
		rows := make([][]any, 0, len(p.Members))
		for _, m := range p.Members {
			rows = append(rows, []any{m.Name, c.state(string(m.State)), c.moment(m.Until), dash(m.Reason)})
		}
		c.table("it has no member: 'sluice pool add-member' adds one", []any{"member", "state", "until", "reason"}, rows)
	})
}

func (c *cli) poolRotateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rotate NAME", Short: "Make the next member active",
		Long: `Makes the next eligible member active and parks the one that was, until it is chosen again. If there is none
to move to, nothing changes and the error says why.`,
		Args: arguments("NAME"), ValidArgsFunction: c.complete(c.poolNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			status, err := client.RotatePool(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.done(status, status.Active)
		},
	}
}

// removedPool is a pool that is gone, and the targets that it has left with none. These are nil if they are not known.
type removedPool struct {
	Name    string       `json:"name"`
	Targets []api.Target `json:"targets,omitzero"`
}

func (c *cli) poolRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Aliases: []string{"rm"}, Short: "Remove a pool; its credentials stay",
		Long: `Removes a pool. Its credentials stay, and are free for another one.

Targets that it served stay attached. Those that no other pool serves are named: what they send goes out as it is from
then on, with what the agent holds for a credential. A pool of the same name that is created later serves them again.`,
		Args: arguments("NAME"), ValidArgsFunction: c.complete(c.poolNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if err := client.RemovePool(cmd.Context(), args[0]); err != nil {
				return err
			}
			gone := removedPool{Name: args[0]}
			if gone.Targets, err = client.LeftBy(cmd.Context(), gone.Name); err != nil { // the pool is gone all the same
				fmt.Fprintf(c.stderr, "which targets no pool serves now is not known: %s\n", err)
			}
			return c.print(gone, func() {
				fmt.Fprintln(c.stdout, gone.Name)
				c.warnUnserved(gone.Targets)
			})
		},
	}
}

func (c *cli) poolAddMemberCommand() *cobra.Command {
	return &cobra.Command{
		Use: "add-member NAME CRED", Short: "Add a credential as the pool's last member",
		Args: arguments("NAME", "CRED"), ValidArgsFunction: c.complete(c.poolNames, c.freeCredentials),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			status, err := client.AddMember(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return c.printPool(status)
		},
	}
}

func (c *cli) poolRemoveMemberCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove-member NAME CRED", Short: "Take a credential out of the pool; the credential stays",
		Args: arguments("NAME", "CRED"), ValidArgsFunction: c.complete(c.poolNames, c.membersOf),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			status, err := client.RemoveMember(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return c.printPool(status)
		},
	}
}

func (c *cli) poolClearCommand() *cobra.Command {
	return &cobra.Command{
		Use: "clear NAME [MEMBER]", Short: "Lift the cooldown of a member, or of all",
		Long: `Lifts cooldowns by hand, for instance after credit was topped up. If the upstream still refuses, the next
request finds that out and the member cools down again.`,
		Args: arguments("NAME", "[MEMBER]"), ValidArgsFunction: c.complete(c.poolNames, c.membersOf),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			member := ""
			if len(args) == 2 {
				member = args[1]
			}
			status, err := client.ClearPool(cmd.Context(), args[0], member)
			if err != nil {
				return err
			}
			return c.printPool(status)
		},
	}
}
