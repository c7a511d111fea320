// Command demo shows sluice doing its job in a world of its own: two network namespaces, a simulated upstream, a throw-away daemon.
//
// It uses nothing but sluice's command line. What it makes, it takes away again, also when it is interrupted: the network
// namespaces have no name and the BPF pins are on a file system of the daemon's own mount namespace, so both go with the
// processes that use them.
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
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// limit is how long the demo may take, everything included.
const limit = 5 * time.Minute

func main() {
	if len(os.Args) > 1 && os.Args[1] == stageName {
		fmt.Fprintln(os.Stderr, "demo: "+enter(os.Args[2:]).Error())
		os.Exit(1)
	}
	os.Exit(demo(os.Args[1:]))
}

func demo(args []string) int {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	bin := flags.String("bin", os.Getenv("BIN"), "sluice `executable` to show; none: built from ./cmd/sluice")
	logs := flags.Bool("log", false, "show what the daemon logs")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	// `go run` does not pass SIGTERM on: hear of its end instead.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
		fmt.Fprintf(os.Stderr, "demo: parent-death signal: %v\n", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
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
		if bin, err = build(ctx, dir); err != nil {
			return err
		}
	}
	world, err := newWorld(ctx, dir)
	if err != nil {
		return fmt.Errorf("network namespaces and simulator: %w", err)
	}
	defer func() { err = errors.Join(err, world.close()) }()
	daemon, err := startDaemon(ctx, dir, bin, world.caFile, logs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, daemon.stop()) }()
	if err := daemon.makePool(ctx); err != nil {
		return err
	}
	agent, err := startAgent(ctx, daemon, world)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, agent.stop()) }()
	return tell(ctx, &story{out: out, world: world, daemon: daemon, agent: agent})
}
