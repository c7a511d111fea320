package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

func (c *cli) serveCommand() *cobra.Command {
	var configFile, stateDir string
	cmd := &cobra.Command{
		Use: "serve [--config FILE] [--state-dir DIR] [--socket PATH]", Short: "Run the daemon",
		Long: `Runs the daemon: it loads the BPF programs, attaches the targets it remembers, and answers on the socket. It logs
"listening" on standard error once it serves, and tells systemd that it is ready.

SIGTERM and Ctrl-C end it: requests that are being served get some time to finish, a second signal ends it at once. What
is attached stays attached, so that bound hosts are refused rather than reached without sluice, until it runs again;
'sluice detach --all' takes everything away. When nothing is attached it leaves nothing behind.

SIGHUP has the configuration read again. log.level, notify and the certificate of the API change at once; of the other
keys that changed the log says that a restart is needed. A file with a mistake changes nothing.`,
		Example: `  sudo sluice serve
  sudo sluice serve --config /etc/sluice/config.toml`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return fmt.Errorf("serve: programs have to be put into the kernel, which needs root: use '%s'", asRoot(cmd, nil))
			}
			read := func() (config, error) { return c.serveConfig(configFile, stateDir) }
			cfg, err := read()
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, read, c.env)
		},
	}
	cmd.Flags().StringVar(&configFile, "config", "", "configuration file (default "+defaultConfigFile+", if it is there)")
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "where pools, credentials and the CA are kept (default "+defaultStateDir+")")
	return cmd
}

// serveConfig is the file's configuration, with what the command line says instead.
func (c *cli) serveConfig(file, stateDir string) (config, error) {
	cfg, err := loadConfig(file)
	if err != nil {
		return cfg, err
	}
	if stateDir != "" {
		if cfg.StateDir, err = filepath.Abs(stateDir); err != nil {
			return cfg, fmt.Errorf("--state-dir %s: %w", stateDir, err)
		}
	}
	cfg.Socket = c.socketOf(cfg)
	return cfg, nil
}
