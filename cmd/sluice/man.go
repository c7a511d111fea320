package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

const manName = "__man"

// manCommand writes the manual for who packages sluice.
func (c *cli) manCommand() *cobra.Command {
	return &cobra.Command{
		Use: manName + " DIR", Hidden: true, Args: arguments("DIR"),
		Short: "Write a manual page for each command into a directory",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("man: %w", err)
			}
			b := build()
			// The same page from the same commit: no page tells when it was written.
			date, err := time.Parse(time.RFC3339, b.Date)
			if err != nil {
				date = time.Unix(0, 0).UTC()
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, &doc.GenManHeader{
				Section: "1", Date: &date, Source: "sluice " + b.Version, Manual: "sluice",
			}, args[0]); err != nil {
				return fmt.Errorf("man: write the pages: %w", err)
			}
			return nil
		},
	}
}
