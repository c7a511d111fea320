package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/monitor/audit"
	"github.com/sluice-proxy/sluice/pool/vault"
)

func (c *cli) backupCommand() *cobra.Command {
	var configFile, stateDir string
	cmd := &cobra.Command{
		Use: "backup FILE", Short: "Copy the state into one file, while the daemon runs or not",
		Long: `Writes pools, credentials (encrypted, with the identity that opens them), CA and audit log as they are at one moment
into FILE, a gzipped tar archive of mode 0600 that takes the place of an older one when it is complete; - is standard
output. The daemon goes on meanwhile. What was copied is opened and checked before it is packed.

Who has the file has every secret in it: keep it as you would keep the keys. An identity that systemd keeps is not in
it and has to be backed up apart. 'sluice restore' puts a backup in place.`,
		Example: `  sudo sluice backup /var/backups/sluice.tar.gz
  sudo sluice backup - | age -r age1... > sluice.tar.gz.age`,
		Args: arguments("FILE"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: orAsRoot(func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" && c.format == formatJSON {
				return usageError{"sluice backup -: the archive goes to standard output, and JSON would too; name a file"}
			}
			if args[0] == "-" && terminal(c.stdout) {
				return usageError{"sluice backup -: an archive is nothing for a terminal; name a file, or pipe it to a command"}
			}
			if info, err := os.Stat(args[0]); err == nil && info.IsDir() {
				return usageError{fmt.Sprintf("sluice backup %s: it is a directory; name a file in it", args[0])}
			}
			dir, err := c.stateDirectory(configFile, stateDir)
			if err != nil {
				return err
			}
			made, err := c.backup(cmd.Context(), dir, args[0])
			if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EROFS) {
				return fmt.Errorf("backup: %w: it needs room for a copy in %s, beside the state, and for the file", err, filepath.Dir(dir))
			}
			if err != nil {
				return fmt.Errorf("backup: %w", err)
			}
			c.caution(made, "back it up apart")
			if args[0] == "-" {
				return nil
			}
			return c.done(made, made.File)
		}),
	}
	cmd.Flags().StringVar(&configFile, "config", "", "configuration file (default "+defaultConfigFile+", if it is there)")
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "the daemon's state directory (default "+defaultStateDir+")")
	return cmd
}

// stateDirectory is the flag's, else the configuration's; if it is a link, as to another disk, what that leads to.
func (c *cli) stateDirectory(configFile, stateDir string) (string, error) {
	cfg, err := loadConfig(configFile)
	if err != nil {
		return "", err
	}
	if stateDir == "" {
		stateDir = cfg.StateDir
	}
	if stateDir, err = filepath.Abs(stateDir); err != nil {
		return "", fmt.Errorf("--state-dir: %w", err)
	}
	if to, err := filepath.EvalSymlinks(stateDir); err == nil {
		return to, nil
	}
	return stateDir, nil // whoever wants to use it says what is wrong
}

// backedUp is what -o json prints of a backup that was made or restored.
type backedUp struct {
	File        string `json:"file"`
	Credentials int    `json:"credentials"`
	AuditLines  int    `json:"audit_lines"`
	// AuditBroken says where the audit log, copied as it is, does not hold; "" if it does.
	AuditBroken string `json:"audit_broken"`
	// IdentityElsewhere says that the identity is not among the files.
	IdentityElsewhere bool `json:"identity_elsewhere"`
}

// caution says what is not as one may think of a backup.
func (c *cli) caution(b backedUp, identity string) {
	if b.IdentityElsewhere {
		fmt.Fprintf(c.stderr, "sluice: the identity is systemd's and not in the backup, and without it no secret can be opened: %s (docs/vault.md)\n", identity)
	}
	if b.AuditBroken != "" {
		fmt.Fprintf(c.stderr, "sluice: the audit log is copied as it is, and does not hold: %s\n", b.AuditBroken)
	}
}

// backup stages a copy beside the state, checks it, and packs it. The copy has every secret in it: nothing that ends
// a backup leaves it there, nor a part of the file.
func (c *cli) backup(ctx context.Context, stateDir, file string) (made backedUp, err error) {
	if _, err := os.Stat(filepath.Join(stateDir, databaseFile)); errors.Is(err, fs.ErrPermission) {
		return backedUp{}, err
	} else if err != nil {
		return backedUp{}, fmt.Errorf("there is no state: %w; --state-dir says where the daemon keeps it", err)
	}
	staged, err := os.MkdirTemp(filepath.Dir(stateDir), ".sluice-backup-") // 0700
	if err != nil {
		return backedUp{}, err
	}
	var packing atomic.Pointer[os.File] // that is not in place yet
	var left error
	defer func() { err = errors.Join(err, left) }()
	defer unlessEnded(func() {
		left = removeAll(staged)
		if out := packing.Load(); out != nil {
			left = errors.Join(left, os.Remove(out.Name()))
		}
	})()
	if err := stageState(ctx, stateDir, staged); err != nil {
		return backedUp{}, err
	}
	if made, err = checkState(ctx, staged); err != nil {
		return backedUp{}, fmt.Errorf("%s cannot be restored as it is: %w", stateDir, err)
	}
	made.File = file
	if file == "-" {
		return made, pack(staged, c.stdout)
	}
	// The directory may be another one's, who must not have made the file, nor a link in its place.
	out, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".new-") // 0600
	if err != nil {
		return backedUp{}, err
	}
	packing.Store(out)
	if err := errors.Join(pack(staged, out), out.Sync(), out.Close()); err != nil {
		return backedUp{}, err
	}
	if err := os.Rename(out.Name(), file); err != nil {
		return backedUp{}, err
	}
	packing.Store(nil)
	return made, nil
}

// stageState copies the state directory: first the audit log, so that no line of it is
// ahead of the database.
func stageState(ctx context.Context, stateDir, staged string) error {
	if _, err := os.Stat(auditDir(stateDir)); err == nil {
		if err := audit.Copy(auditDir(stateDir), auditDir(staged)); err != nil {
			return err
		}
	}
	if err := copyDatabase(ctx, stateDir, staged); err != nil {
		return err
	}
	return filepath.WalkDir(stateDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(stateDir, path)
		switch {
		case err != nil || name == ".":
			return err
		case name == "audit" && entry.IsDir():
			return fs.SkipDir
		case name == "audit": // a link: SkipDir would leave out what comes behind it
			return nil
		case name == "lock" || strings.HasPrefix(name, databaseFile) || strings.HasSuffix(name, ".new"):
			return nil
		case entry.IsDir():
			return os.Mkdir(filepath.Join(staged, name), 0o700)
		case entry.Type() == fs.ModeSymlink:
			return fmt.Errorf("%s is a link, and what it leads to would not be in the backup: put that in its place", path)
		case !entry.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(staged, name), data, 0o600)
	})
}

// checkState opens what a daemon would open in a state directory that none uses, and has
// the audit log told again what the database knows and its copy does not.
func checkState(ctx context.Context, dir string) (found backedUp, err error) {
	db, err := openState(ctx, dir)
	if err != nil {
		return backedUp{}, err
	}
	defer func() { err = errors.Join(err, db.Close(), removeLock(dir)) }()
	sealed, err := db.Sealed(ctx)
	if err != nil {
		return backedUp{}, err
	}
	found.Credentials = len(sealed)
	if found.IdentityElsewhere, err = db.IdentityGiven(ctx); err != nil {
		return backedUp{}, err
	}
	if !found.IdentityElsewhere && len(sealed) > 0 {
		if _, err := vault.Open(vault.Options{File: identityFile(dir), Sealed: sealed}); err != nil {
			return backedUp{}, err
		}
	}
	report, err := audit.Verify(auditDir(dir), auditKey(dir))
	var broken *audit.BrokenError
	switch {
	case errors.Is(err, audit.ErrNoLog):
		return found, nil
	case errors.As(err, &broken): // kept as it is: it is the evidence
		place, err := filepath.Rel(dir, broken.File)
		found.AuditBroken = fmt.Sprintf("%s:%d: %s", place, broken.Line, broken.Reason)
		return found, err
	case err != nil:
		return backedUp{}, err
	}
	found.AuditLines = report.Lines
	return found, db.Rewind(ctx, audit.Reader, report.LastSeq)
}

// removeLock takes away what tells daemons apart: it belongs to no copy.
func removeLock(dir string) error { return os.Remove(filepath.Join(dir, "lock")) }

// pack writes a directory as a gzipped tar archive.
func pack(dir string, to io.Writer) error {
	zip := gzip.NewWriter(to)
	archive := tar.NewWriter(zip)
	// What one of them cannot write, the next cannot either, and says so once more.
	if err := archive.AddFS(os.DirFS(dir)); err != nil {
		return err
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return zip.Close()
}
