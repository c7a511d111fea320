package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// orAsRoot has a command say, of what this user may not do, how root does it.
func orAsRoot(run func(cmd *cobra.Command, args []string) error) func(cmd *cobra.Command, args []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := run(cmd, args)
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%w; run it as root: %s", err, asRoot(cmd, args))
		}
		return err
	}
}

// asRoot is a command as it was given, for a shell. It is not for commands whose arguments may hold a secret.
func asRoot(cmd *cobra.Command, args []string) string {
	words := append([]string{"sudo"}, strings.Fields(cmd.CommandPath())...)
	cmd.Flags().Visit(func(f *pflag.Flag) { words = append(words, "--"+f.Name, shellWord(f.Value.String())) })
	for _, arg := range args {
		words = append(words, shellWord(arg))
	}
	return strings.Join(words, " ")
}

// shellWord is a word that a POSIX shell takes for this text.
func shellWord(text string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("_@%+=:,./-", r)
	}
	if text != "" && !strings.ContainsFunc(text, func(r rune) bool { return !plain(r) }) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
