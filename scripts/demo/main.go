// Command demo shows sluice doing its job in a world of its own: two network namespaces, a simulated upstream, a throw-away daemon.
//
// It uses nothing but sluice's command line, and takes away again what it makes, also when it is interrupted: see package
// sandbox.
//
//	sudo make demo
//	sudo go run ./scripts/demo -bin ./bin/sluice   # an executable that is built already
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
)

// limit is how long the demo may take, everything included.
const limit = 5 * time.Minute

func main() {
	sandbox.Become()
	os.Exit(demo(os.Args[1:]))
}

func demo(args []string) int {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	bin := flags.String("bin", os.Getenv("BIN"), "sluice `executable` to show; none: built from ./cmd/sluice")
	logs := flags.Bool("log", false, "show what the daemon logs")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ctx, stop := sandbox.Signals()
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := show(ctx, *bin, *logs)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded):
		fmt.Fprintln(os.Stderr, "demo: interrupted; cleaned up")
		return 130
	}
	fmt.Fprintln(os.Stderr, "demo: "+err.Error())
	return 1
}

// show builds the world, tells the story and takes the world down again.
func show(ctx context.Context, bin string, logs bool) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("root is needed, for network namespaces and BPF programs: run 'sudo make demo'")
	}
	dir, err := os.MkdirTemp("", "sluice-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	out := newTimeline(os.Stdout)
	if bin == "" {
		out.say("building sluice ...")
		if bin, err = sandbox.Build(ctx, dir); err != nil {
			return err
		}
	}
	world, err := newWorld(ctx, dir)
	if err != nil {
		return fmt.Errorf("network namespaces and simulator: %w", err)
	}
	defer func() { err = errors.Join(err, world.close()) }()
	inbox, err := openInbox(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, inbox.close()) }()
	daemon, err := sandbox.StartDaemon(ctx, sandbox.DaemonOptions{
		Bin: bin, Dir: dir, Roots: world.caFile, Show: logs, Config: inbox.config(),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, daemon.Stop()) }()
	if err := makePool(ctx, daemon); err != nil {
		return err
	}
	agent, err := startAgent(ctx, daemon, world)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, agent.stop()) }()
	return tell(ctx, &story{out: out, world: world, daemon: daemon, agent: agent, inbox: inbox})
}
