package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/control/api"
)

func (c *cli) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use: "completion SHELL", Short: "Print the completion script of a shell",
		Long: `Prints a script that makes the shell complete commands, flags, and the names of pools, credentials and targets.`,
		Example: `  sluice completion bash | sudo tee /etc/bash_completion.d/sluice > /dev/null
  sluice completion zsh > "${fpath[1]}/_sluice"`,
		Args: arguments("SHELL"), ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(c.stdout, true)
			case "zsh":
				return root.GenZshCompletion(c.stdout)
			case "fish":
				return root.GenFishCompletion(c.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(c.stdout)
			}
			return usageError{fmt.Sprintf("no completion for %q: there is bash, zsh, fish and powershell", args[0])}
		},
	}
}

// names lists what an argument may be. It is called while somebody waits for
// the tab key's answer.
type names func(context.Context, *api.Client) ([]string, error)

func (c *cli) poolNames(ctx context.Context, client *api.Client) ([]string, error) {
	pools, err := client.Pools(ctx)
	found := make([]string, 0, len(pools))
	for _, p := range pools {
		found = append(found, p.Name)
	}
	return found, err
}

func (c *cli) credentialNames(ctx context.Context, client *api.Client) ([]string, error) {
	credentials, err := client.Credentials(ctx)
	found := make([]string, 0, len(credentials))
	for _, credential := range credentials {
		found = append(found, credential.Name)
	}
	return found, err
}

func (c *cli) targetIDs(ctx context.Context, client *api.Client) ([]string, error) {
	targets, err := client.Targets(ctx)
	found := make([]string, 0, len(targets))
	for _, t := range targets {
		found = append(found, t.Id+"\t"+t.Cgroup)
	}
	return found, err
}

// complete completes the arguments, each from its own list.
func (c *cli) complete(lists ...names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(lists) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.ask(cmd, lists[len(args)]), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag completes the value of a flag.
func (c *cli) completeFlag(cmd *cobra.Command, flag string, from names) {
	err := cmd.RegisterFlagCompletionFunc(flag,
		func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return c.ask(cmd, from), cobra.ShellCompDirectiveNoFileComp
		})
	if err != nil {
		panic(err) // the caller has just defined the flag
	}
}

// ask gives nothing where no daemon answers: completing is no time for errors.
func (c *cli) ask(cmd *cobra.Command, from names) []string {
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	client, err := c.client()
	if err != nil {
		return nil
	}
	found, err := from(ctx, client)
	if err != nil {
		return nil
	}
	return found
}
