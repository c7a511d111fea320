// Command sluice intercepts the API traffic of AI agents and gives each request the credential that a pool has to spare.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(sluice(defaultEnv(), os.Args[1:]))
}

// Exit statuses; `run` passes on the status of its command instead.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake in the command line.
type usageError struct{ message string }

func (e usageError) Error() string { return e.message }

// statusError ends sluice with a status and without another word.
type statusError struct{ status int }

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", e.status) }

// sluice runs one command line and returns the exit status.
func sluice(e env, args []string) int {
	ctx, end := context.WithCancel(e.ctx)
	defer end()
	e.ctx = ctx
	root := newRoot(e)
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return flagError(cmd, args, err) })
	err := root.ExecuteContext(e.ctx)
	var status statusError
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &status):
		return status.status
	case errors.As(err, &usage):
		fmt.Fprintln(e.stderr, "sluice: "+oneLine(err))
		return exitUsage
	}
	fmt.Fprintln(e.stderr, "sluice: "+oneLine(err))
	return exitFailed
}

func oneLine(err error) string {
	return printable(strings.Join(strings.Fields(err.Error()), " "))
}

// newRoot makes the tree of commands.
func newRoot(e env) *cobra.Command {
	c := &cli{env: e}
	root := group(&cobra.Command{
		Use:   "sluice",
		Short: "Transparent credential pools for AI agents",
		Long: `sluice takes the API traffic of AI agents where it leaves them, gives each request the credential that a
pool has to spare, and moves on to the next one when the upstream says that one is used up. The agent is not
configured, and holds no real secret.

'sluice serve' is the daemon; the other commands talk to it over a unix socket.`,
		Example: `  sudo sluice serve
  sudo sluice cred add work-key < key.txt
  sudo sluice pool create main --members work-key,spare-key --provider openai
  sudo sluice run -- python agent.py`,
	},
		c.serveCommand(), c.runCommand(), c.attachCommand(), c.detachCommand(), c.targetsCommand(),
		c.credCommand(), c.poolCommand(), c.statusCommand(), c.eventsCommand(), c.auditCommand(), c.doctorCommand(),
		c.vaultCommand(), c.backupCommand(), c.restoreCommand(), c.caCommand(), c.tokenCommand(), c.versionCommand(), c.completionCommand(), c.manCommand(), c.execCommand(), c.powersCommand(),
	)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.Version = inWords(build())
	root.SetVersionTemplate("{{.Version}}\n")
	root.InitDefaultVersionFlag()
	root.Flags().Lookup("version").Usage = "print the version of this binary"
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetHelpCommand(c.helpCommand())
	root.PersistentFlags().StringVar(&c.socket, "socket", "",
		"the daemon's unix socket (default $SLUICE_SOCKET, else "+defaultSocket+")")
	root.PersistentFlags().StringVarP(&c.format, "output", "o", formatTable, "how to print: table or json")
	root.PersistentFlags().StringVar(&c.colour, "color", colourAuto, "when to colour states: auto (on a terminal), always or never")
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return c.check() }
	oneOf(root, "output", formatTable, formatJSON)
	oneOf(root, "color", colours...)
	offerNoFiles(root)
	return root
}

// arguments demands as many arguments as there are names, and names the one
// that is missing. A name in brackets is optional.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		for i, name := range names {
			if i >= len(args) && !strings.HasPrefix(name, "[") {
				return usageError{fmt.Sprintf("%s needs %s; see '%s --help'", cmd.CommandPath(), name, cmd.CommandPath())}
			}
		}
		if len(args) > len(names) {
			return usageError{fmt.Sprintf("%s: %q is one argument too many; see '%s --help'",
				cmd.CommandPath(), args[len(names)], cmd.CommandPath())}
		}
		for i, value := range args {
			if value == "" {
				return usageError{fmt.Sprintf("%s: %s is empty", cmd.CommandPath(), names[i])}
			}
		}
		return nil
	}
}
