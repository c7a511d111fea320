package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/control/api"
)

// Set by the linker (-X); a plain `go build` or `go install` leaves them empty.
var version, commit, date string

// build says what this is: what the linker was told, else what the Go command
// wrote into the binary, else "unknown".
func build() api.Build {
	b := api.Build{Version: version, Commit: commit, Date: date, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = new(debug.BuildInfo)
	}
	fill(&b.Version, info.Main.Version)
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			fill(&b.Commit, setting.Value)
		case "vcs.time":
			fill(&b.Date, setting.Value)
		}
	}
	fill(&b.Version, "unknown")
	fill(&b.Commit, "unknown")
	fill(&b.Date, "unknown")
	return b
}

func fill(into *string, value string) {
	if *into == "" {
		*into = value
	}
}

func inWords(b api.Build) string {
	return fmt.Sprintf("sluice %s (commit %s, %s, %s)", b.Version, b.Commit, b.Date, b.Go)
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this binary", Args: arguments(),
		RunE: func(*cobra.Command, []string) error {
			b := build()
			return c.print(b, func() { fmt.Fprintln(c.stdout, inWords(b)) })
		},
	}
}
