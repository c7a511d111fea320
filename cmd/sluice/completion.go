package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sluice-proxy/sluice/control/api"
)

func (c *cli) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use: "completion SHELL", Short: "Print the completion script of a shell",
		Long: `Prints a script that makes the shell complete commands, flags and their values, and the names of pools, credentials
and targets: for those it asks the daemon, and offers nothing when none answers within a second. Bash needs the package
bash-completion.`,
		Example: `  sluice completion bash | sudo tee /etc/bash_completion.d/sluice > /dev/null
  sluice completion zsh > "${fpath[1]}/_sluice"
  sluice completion fish > ~/.config/fish/completions/sluice.fish`,
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

// names lists what an argument may be, behind those that are there already. It is called
// while somebody waits for the tab key's answer. What follows a tab is its description.
type names func(ctx context.Context, client *api.Client, before []string) ([]string, error)

// tabLimit is how long that may take.
const tabLimit = time.Second

func (c *cli) poolNames(ctx context.Context, client *api.Client, _ []string) ([]string, error) {
	pools, err := client.Pools(ctx)
	found := make([]string, 0, len(pools))
	for _, p := range pools {
		found = append(found, p.Name+"\t"+string(p.State)+": "+list(p.Members))
	}
	return found, err
}

func (c *cli) credentialNames(ctx context.Context, client *api.Client, _ []string) ([]string, error) {
	return credentialsThat(ctx, client, func(api.Credential) bool { return true })
}

// freeCredentials are those that no pool holds.
func (c *cli) freeCredentials(ctx context.Context, client *api.Client, _ []string) ([]string, error) {
	return credentialsThat(ctx, client, func(x api.Credential) bool { return x.Pool == "" })
}

// membersOf are those of the pool that is named before.
func (c *cli) membersOf(ctx context.Context, client *api.Client, before []string) ([]string, error) {
	return credentialsThat(ctx, client, func(x api.Credential) bool { return len(before) > 0 && x.Pool == before[0] })
}

func credentialsThat(ctx context.Context, client *api.Client, wanted func(api.Credential) bool) ([]string, error) {
	all, err := client.Credentials(ctx)
	var found []string
	for _, x := range all {
		if !wanted(x) {
			continue
		}
		about := "in no pool"
		if x.Pool != "" {
			about = "in pool " + x.Pool
		}
		found = append(found, x.Name+"\t"+string(x.Type)+", "+about)
	}
	return found, err
}

func (c *cli) targetIDs(ctx context.Context, client *api.Client, _ []string) ([]string, error) {
	targets, err := client.Targets(ctx)
	found := make([]string, 0, len(targets))
	for _, t := range targets {
		found = append(found, t.Id+"\t"+string(t.State)+": "+called(t))
	}
	return found, err
}

// complete completes the arguments, each from its own list.
func (c *cli) complete(lists ...names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(lists) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.ask(cmd, lists[len(args)], args, typed), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag completes the value of a flag from what the daemon knows.
func (c *cli) completeFlag(cmd *cobra.Command, flag string, from names) {
	register(cmd, flag, func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		return c.ask(cmd, from, args, typed), cobra.ShellCompDirectiveNoFileComp
	})
}

// completeList completes the last of the words between commas, with what is not among them.
func (c *cli) completeList(cmd *cobra.Command, flag string, from names) {
	register(cmd, flag, func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		before := typed[:strings.LastIndexByte(typed, ',')+1]
		chosen := strings.Split(before, ",")
		var found []string
		for _, one := range c.ask(cmd, from, args, strings.TrimPrefix(typed, before)) {
			if name, _, _ := strings.Cut(one, "\t"); !slices.Contains(chosen, name) {
				found = append(found, before+one)
			}
		}
		return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
}

// oneOf completes the value of a flag from a fixed list.
func oneOf(cmd *cobra.Command, flag string, values ...string) {
	register(cmd, flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

func register(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err) // the caller has just defined the flag
	}
}

// Flags whose value is a file, or a directory. For all others that have nothing to offer
// a shell would offer files.
var (
	fileFlags      = []string{"config", "file", "socket"}
	directoryFlags = []string{"state-dir", "cgroup"}
)

// offerNoFiles makes commands and flags that have nothing to offer, offer nothing.
func offerNoFiles(cmd *cobra.Command) {
	for _, child := range cmd.Commands() {
		offerNoFiles(child)
	}
	if cmd.Runnable() && cmd.ValidArgsFunction == nil && len(cmd.ValidArgs) == 0 && !takesFiles(cmd) {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	each := func(f *pflag.Flag) {
		if _, known := cmd.GetFlagCompletionFunc(f.Name); known || slices.Contains(fileFlags, f.Name) {
			return
		}
		if slices.Contains(directoryFlags, f.Name) {
			register(cmd, f.Name, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
				return nil, cobra.ShellCompDirectiveFilterDirs
			})
			return
		}
		register(cmd, f.Name, cobra.NoFileCompletions)
	}
	cmd.LocalNonPersistentFlags().VisitAll(each)
	cmd.PersistentFlags().VisitAll(each)
}

// takesFiles says whether a command's arguments are files, as its usage line says, or are
// another command's.
func takesFiles(cmd *cobra.Command) bool {
	return strings.Contains(cmd.Use, "FILE]") || strings.HasSuffix(cmd.Use, " FILE") || cmd.Name() == "run"
}

// ask gives nothing where no daemon answers: completing is no time for errors.
func (c *cli) ask(cmd *cobra.Command, from names, before []string, typed string) []string {
	ctx, cancel := context.WithTimeout(cmd.Context(), tabLimit)
	defer cancel()
	client, err := c.client()
	if err != nil {
		return nil
	}
	defer client.Close()
	found, err := from(ctx, client, before)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(found, func(one string) bool { return !strings.HasPrefix(one, typed) })
}
