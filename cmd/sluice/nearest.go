package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sluice-proxy/sluice/pool"
)

// group makes a command that does nothing but hold others.
func group(parent *cobra.Command, children ...*cobra.Command) *cobra.Command {
	parent.AddCommand(children...)
	parent.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return noCommand(cmd, args[0])
	}
	parent.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return parent
}

// noCommand says which command was meant, if it can tell.
func noCommand(parent *cobra.Command, word string) error {
	message := fmt.Sprintf("%s has no command %q", parent.CommandPath(), word)
	var names []string
	begun := ""
	for _, child := range parent.Commands() {
		if child.IsAvailableCommand() {
			names = append(names, child.Name())
			if begun == "" && strings.HasPrefix(child.Name(), word) {
				begun = child.Name()
			}
		}
	}
	if near := cmp.Or(pool.Nearest(word, names), begun); near != "" {
		return usageError{message + fmt.Sprintf("; did you mean %q?", near)}
	}
	return usageError{message + fmt.Sprintf("; '%s --help' lists them", parent.CommandPath())}
}

// flagError says which flag was meant, if it can tell. Of a command that holds others it
// looks for a mistyped one first: the flags behind that are unknown only because it is.
func flagError(cmd *cobra.Command, args []string, err error) error {
	if cmd.HasSubCommands() {
		child := func(word string) bool {
			return slices.ContainsFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == word || c.HasAlias(word) })
		}
		if word := firstWord(cmd, args); word != "" && !child(word) {
			return noCommand(cmd, word)
		}
	}
	if wrong, is := errors.AsType[*pflag.InvalidValueError](err); is {
		flag := wrong.GetFlag()
		return usageError{fmt.Sprintf("--%s %q: %s; see '%s --help'", flag.Name, wrong.GetValue(), valueNeeded(flag), cmd.CommandPath())}
	}
	message := strings.TrimPrefix(err.Error(), "pflag: ")
	name, long := strings.CutPrefix(message, "unknown flag: --")
	if !long { // "unknown shorthand flag: 'm' in -members": with one dash too few
		if _, word, found := strings.Cut(message, " in -"); found && len(word) > 1 {
			name, _, _ = strings.Cut(word, "=")
		}
	}
	if long && name == "json" { // as others call it
		return usageError{message + "; did you mean -o json?"}
	}
	if near := pool.Nearest(name, flagNames(cmd)); near != "" {
		return usageError{message + "; did you mean --" + near + "?"}
	}
	return usageError{message + fmt.Sprintf("; see '%s --help'", cmd.CommandPath())}
}

// valueNeeded says what a flag takes.
func valueNeeded(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "int":
		return "a whole number is needed"
	case "duration":
		return "a duration is needed, such as 30s or 2m"
	case "bool":
		return "true or false is needed"
	case "stringSlice":
		return "names are needed, with commas between them"
	}
	return "a value of another kind is needed"
}

// firstWord is the first argument behind the names of cmd that is neither a flag nor the
// value of one; "" if there is none.
func firstWord(cmd *cobra.Command, args []string) string {
	names := strings.Fields(cmd.CommandPath())[1:]
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			return ""
		case strings.HasPrefix(arg, "-") && arg != "-":
			if flag := lookup(cmd, arg); flag != nil && flag.NoOptDefVal == "" && !strings.Contains(arg, "=") {
				i++
			}
		case len(names) > 0:
			names = names[1:]
		default:
			return arg
		}
	}
	return ""
}

// lookup is the flag that an argument such as --socket, --socket=x or -o sets; nil if there
// is none.
func lookup(cmd *cobra.Command, arg string) *pflag.Flag {
	if long, ok := strings.CutPrefix(arg, "--"); ok {
		name, _, _ := strings.Cut(long, "=")
		return cmd.Flag(name)
	}
	if len(arg) != 2 { // -ojson: the value is in there
		return nil
	}
	if flag := cmd.Flags().ShorthandLookup(arg[1:]); flag != nil {
		return flag
	}
	return cmd.InheritedFlags().ShorthandLookup(arg[1:])
}

func flagNames(cmd *cobra.Command) []string {
	var names []string
	add := func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	}
	cmd.Flags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	return names
}

// helpCommand is cobra's, but that a command which is not there is an error.
func (c *cli) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]...", Short: "Show what a command takes, as --help does",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			var found []string
			parent, rest, err := cmd.Root().Find(args)
			if err == nil && len(rest) == 0 {
				for _, child := range parent.Commands() {
					if child.IsAvailableCommand() && strings.HasPrefix(child.Name(), typed) {
						found = append(found, child.Name()+"\t"+child.Short)
					}
				}
			}
			return found, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			meant, rest, err := cmd.Root().Find(args)
			switch {
			case err != nil:
				return usageError{err.Error()}
			case len(rest) > 0 && !meant.HasSubCommands():
				return usageError{fmt.Sprintf("%s has no commands of its own; see '%s --help'", meant.CommandPath(), meant.CommandPath())}
			case len(rest) > 0:
				return noCommand(meant, rest[0])
			}
			meant.InitDefaultHelpFlag()
			return meant.Help()
		},
	}
}
