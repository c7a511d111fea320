package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/monitor/audit"
	"github.com/sluice-proxy/sluice/monitor/notice"
)

func (c *cli) auditCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "audit", Short: "Check the log of what happened",
		Long: `The daemon keeps a log of all events in its state directory, in audit/: lines of JSON, each bound to the one before it
by a hash with a key. docs/audit.md describes it.`,
	}, c.auditVerifyCommand())
}

func (c *cli) auditVerifyCommand() *cobra.Command {
	var configFile, stateDir string
	cmd := &cobra.Command{
		Use: "verify [FILE]", Short: "Check that no line of the audit log was changed, moved or removed",
		Long: `Checks the whole audit log, its rotated files and its end, and names the first place where it is broken. The daemon
may run or not; it is not asked, and nothing is changed. It needs to read the log's key, so it is run as root.

With FILE it checks that one file, such as a copy of a rotated one; whether lines are missing before its first or after
its last line cannot be seen then.`,
		Example: `  sudo sluice audit verify
  sudo sluice audit verify /backup/audit-00000000000000000001.jsonl`,
		Args: arguments("[FILE]"),
		RunE: orAsRoot(func(_ *cobra.Command, args []string) error {
			cfg, err := loadConfig(configFile)
			if err != nil {
				return err
			}
			if stateDir != "" {
				if cfg.StateDir, err = filepath.Abs(stateDir); err != nil {
					return fmt.Errorf("--state-dir %s: %w", stateDir, err)
				}
			}
			return c.verifyAudit(cfg.StateDir, args)
		}),
	}
	cmd.Flags().StringVar(&configFile, "config", "", "configuration file (default "+defaultConfigFile+", if it is there)")
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "the daemon's state directory (default "+defaultStateDir+")")
	return cmd
}

// auditReport is what -o json prints: the same object whether the log holds or not. If it does not, what is counted is
// what comes before the broken place.
type auditReport struct {
	Holds bool `json:"holds"`
	audit.Report
	// The first broken place; null if the log holds.
	Broken *auditBroken `json:"broken"`
}

type auditBroken struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

// verifyAudit checks the log of a state directory, or one file with its key.
func (c *cli) verifyAudit(stateDir string, args []string) error {
	dir, key := auditDir(stateDir), auditKey(stateDir)
	var report audit.Report
	var err error
	if len(args) > 0 {
		report, err = audit.VerifyFile(args[0], key)
	} else {
		report, err = audit.Verify(dir, key)
	}
	var broken *audit.BrokenError
	switch {
	case errors.As(err, &broken):
		if c.format == formatJSON {
			if err := c.print(auditReport{Report: report, Broken: (*auditBroken)(broken)}, nil); err != nil {
				return err
			}
		}
		return fmt.Errorf("audit log broken: %w; %s", err, afterDamage(dir, len(args) > 0))
	case errors.Is(err, audit.ErrNoLog):
		return fmt.Errorf("%w; 'sluice serve' begins one, and --state-dir says where it is", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; --state-dir says where the daemon keeps its state, and with it the key", err)
	case err != nil:
		return err
	}
	return c.print(auditReport{Holds: true, Report: report}, func() {
		fmt.Fprintln(c.stdout, auditLine(report))
	})
}

// afterDamage says what to do when a log does not hold.
func afterDamage(dir string, one bool) string {
	if one {
		return "compare the file with another copy, and see that the key is that of this log"
	}
	return "lines before that place hold; compare with copies kept elsewhere, and to begin a new log stop sluice and move " +
		dir + " and " + dir + ".key away"
}

// auditLine is a report for people.
func auditLine(r audit.Report) string {
	verb := "hold"
	if r.Lines == 1 {
		verb = "holds"
	}
	line := notice.Count(r.Lines, "line") + " in " + notice.Count(r.Files, "file") + " " + verb
	if r.Lines > 0 {
		const second = "2006-01-02T15:04:05Z"
		line += ": " + r.FirstTime.UTC().Format(second) + " to " + r.LastTime.UTC().Format(second)
	}
	if r.Unfinished > 0 {
		line += "; " + notice.Count(int(r.Unfinished), "byte") + " of a line that is not finished follow"
	}
	return line
}

func auditDir(stateDir string) string { return filepath.Join(stateDir, "audit") }
func auditKey(stateDir string) string { return filepath.Join(stateDir, "audit.key") }
