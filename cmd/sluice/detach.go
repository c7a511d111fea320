package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/pool"
)

func (c *cli) detachCommand() *cobra.Command {
	var all bool
	var configFile, stateDir string
	cmd := &cobra.Command{
		Use:   "detach TARGET | --all",
		Short: "Take sluice off a target, or off all of them",
		Long: `Takes sluice off a target: its programs leave the cgroup, and what its processes connect to from then on goes
where it always went.

--all also works when no daemon runs: then it removes from the kernel whatever an earlier one left pinned, and forgets
the targets.`,
		Args: arguments("[TARGET]"), ValidArgsFunction: c.complete(c.targetIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return usageError{"sluice detach needs either a target's id ('sluice targets' lists them) or --all"}
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			if !all {
				if err := client.Detach(cmd.Context(), args[0]); err != nil {
					return err
				}
				return c.removed("id", args[0])
			}
			detached, err := client.DetachAll(cmd.Context())
			var unreachable *api.UnreachableError
			if errors.As(err, &unreachable) && unreachable.NotRunning() {
				forgotten, err := c.removePins(cmd.Context(), configFile, stateDir)
				if err != nil {
					return err
				}
				return c.detached(forgotten)
			}
			if err != nil {
				return err
			}
			if c.format == formatJSON {
				return c.print(detached, nil)
			}
			ids := make([]string, 0, len(detached))
			for _, t := range detached {
				ids = append(ids, t.Id)
			}
			return c.detached(ids)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every target, and what is left of any")
	cmd.Flags().StringVar(&configFile, "config", "", "the daemon's configuration, for --all without a daemon")
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "the daemon's state, for --all without a daemon")
	return cmd
}

// detached names targets that are no more. Without a daemon nothing else is known of them.
func (c *cli) detached(ids []string) error {
	gone := make([]map[string]string, 0, len(ids))
	for _, id := range ids {
		gone = append(gone, map[string]string{"id": id})
	}
	return c.print(gone, func() {
		for _, id := range ids {
			fmt.Fprintln(c.stdout, id)
		}
	})
}

// removePins takes what an earlier daemon left out of the kernel, and forgets its
// targets, without serving anything. It says which ones those were.
func (c *cli) removePins(ctx context.Context, configFile, stateDir string) ([]string, error) {
	cfg, err := loadConfig(configFile)
	if err != nil {
		return nil, err
	}
	if stateDir != "" {
		cfg.StateDir = stateDir
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("detach --all: no daemon answers, and taking programs out of the kernel needs root: use sudo")
	}
	newReaper(slog.New(slog.DiscardHandler)).clearAll()
	defer removeScopeParent()
	forgotten, err := forgetTargets(ctx, cfg.StateDir)
	if err == nil && bpf.Lacking() == nil { // else nothing was attached, and namespaces cannot be told apart
		err = clearGuards(cfg.PinDir)
	}
	if err != nil {
		return nil, fmt.Errorf("detach --all: %w", err)
	}
	if _, err := os.Stat(cfg.PinDir); errors.Is(err, fs.ErrNotExist) {
		return forgotten, nil // no pins, then
	}
	hooks, err := bpf.Load(bpf.Options{PinDir: cfg.PinDir})
	if err != nil {
		return nil, fmt.Errorf("detach --all: %w", err)
	}
	return forgotten, hooks.Remove()
}

func notFound(err error) bool {
	var known *pool.Error
	return errors.As(err, &known) && known.Code == pool.CodeNotFound
}
