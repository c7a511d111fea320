package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/pool/vault"
)

// identityFile is where the vault's identity is, unless systemd hands one over.
func identityFile(stateDir string) string { return filepath.Join(stateDir, "identity") }

func (d *sluiced) openVault(ctx context.Context) error {
	sealed, err := d.store.Sealed(ctx)
	if err != nil {
		return err
	}
	d.secrets, err = vault.Open(vault.Options{File: identityFile(d.cfg.StateDir), CredentialDir: d.cfg.CredentialDir, Sealed: sealed})
	if err != nil {
		return err
	}
	return d.store.SetIdentityGiven(ctx, d.secrets.Given())
}

func (c *cli) vaultCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "vault", Short: "How secrets are kept",
		Long: `The secrets of credentials are encrypted in the daemon's state directory, for an identity that is in a file beside
them or handed over by systemd. docs/vault.md describes it.`,
	}, c.vaultRekeyCommand())
}

func (c *cli) vaultRekeyCommand() *cobra.Command {
	var configFile, stateDir string
	cmd := &cobra.Command{
		Use: "rekey", Short: "Encrypt all secrets for a new identity",
		Long: `Makes a new identity, encrypts every secret for it, and leaves nothing in the state directory that the one before can
open. The daemon must be stopped; attached agents are refused meanwhile. However it is interrupted, nothing is lost:
the next start, or the next rekey, finishes what was begun or takes it back.

Backups from before need the identity from before. An identity that comes from systemd (LoadCredential=) cannot be
replaced by this.`,
		Example: `  sudo systemctl stop sluice && sudo sluice vault rekey && sudo systemctl start sluice`,
		Args:    arguments(),
		RunE: orAsRoot(func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(configFile)
			if err != nil {
				return err
			}
			if stateDir != "" {
				if cfg.StateDir, err = filepath.Abs(stateDir); err != nil {
					return fmt.Errorf("--state-dir %s: %w", stateDir, err)
				}
			}
			n, err := rekey(cmd.Context(), cfg.StateDir, c.getenv("CREDENTIALS_DIRECTORY"))
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return fmt.Errorf("vault rekey: %w; --state-dir says where the daemon keeps its state", err)
			case err != nil:
				return fmt.Errorf("vault rekey: %w", err)
			}
			return c.done(rekeyed{Credentials: n}, fmt.Sprintf("encrypted for a new identity: %d", n))
		}),
	}
	cmd.Flags().StringVar(&configFile, "config", "", "configuration file (default "+defaultConfigFile+", if it is there)")
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "the daemon's state directory (default "+defaultStateDir+")")
	return cmd
}

// rekeyed is what -o json prints.
type rekeyed struct {
	Credentials int `json:"credentials"`
}

// rekey works on a state directory that no daemon uses, and says how many credentials
// there are.
func rekey(ctx context.Context, stateDir, credentialDir string) (n int, err error) {
	db, err := openState(ctx, stateDir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	opts := vault.Options{File: identityFile(stateDir), CredentialDir: credentialDir}
	if opts.Given, err = db.IdentityGiven(ctx); err != nil {
		return 0, err
	}
	if opts.Sealed, err = db.Sealed(ctx); err != nil {
		return 0, err
	}
	err = vault.Rekey(opts, func(seal func([]byte) ([]byte, error)) error { return db.Reseal(ctx, seal) })
	if err != nil {
		return 0, err
	}
	if err := db.Scrub(ctx); err != nil {
		return 0, fmt.Errorf("the new identity is in force, but what the old one opens is still in the database's free pages: %w; then run it again", err)
	}
	return len(opts.Sealed), nil
}
