// Command bench measures sluice beside what people would use instead: nginx and net/http's ReverseProxy, both ending TLS and setting the header.
//
// All of them, the upstream and the clients share one network namespace. Each round measures every contestant once, in an
// order that rotates, so that what else the machine does meets all alike. Processor time is that of all of a proxy's
// processes, read from its cgroup. The clients of sluice are in an attached cgroup and connect to the upstream; the others connect to the proxy.
// "direct" is no proxy at all: what the upstream and the clients can do.
//
//	sudo make bench
//	sudo go run ./scripts/bench -rounds 9 -seconds 5
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
)

// plan is what is measured.
type plan struct {
	bin         string
	rounds      int
	seconds     float64
	connections int
	streams     int
	interval    time.Duration
	json        bool
}

func main() {
	sandbox.Become()
	if len(os.Args) > 1 {
		for name, role := range map[string]func([]string) error{loadRole: load, reverseRole: reverse} {
			if os.Args[1] == name {
				if err := role(os.Args[2:]); err != nil {
					fmt.Fprintf(os.Stderr, "bench %s: %v\n", name, err)
					os.Exit(1)
				}
				return
			}
		}
	}
	os.Exit(bench(os.Args[1:]))
}

func bench(args []string) int {
	var p plan
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&p.bin, "bin", os.Getenv("BIN"), "sluice `executable` to measure; none: built from ./cmd/sluice")
	flags.IntVar(&p.rounds, "rounds", 5, "rounds; each measures every contestant once")
	flags.Float64Var(&p.seconds, "seconds", 2, "length of one measurement")
	flags.IntVar(&p.connections, "connections", 16, "connections that send small requests, one after the other; 0 = not measured")
	flags.IntVar(&p.streams, "streams", 200, "event streams; 0 = not measured")
	flags.DurationVar(&p.interval, "interval", 50*time.Millisecond, "time between two events of a stream")
	flags.BoolVar(&p.json, "json", false, "print every measurement as JSON instead of the table")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if p.rounds < 1 || p.seconds <= 0 || p.connections < 0 || p.streams < 0 || p.interval <= 0 {
		fmt.Fprintln(os.Stderr, "bench: rounds, seconds and interval have to be positive, connections and streams not negative")
		return 2
	}
	ctx, stop := sandbox.Signals()
	defer stop()
	err := compare(ctx, p)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; cleaned up")
		return 130
	}
	fmt.Fprintln(os.Stderr, "bench: "+err.Error())
	return 1
}

// compare sets everything up, measures, prints and takes everything down.
func compare(ctx context.Context, p plan) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("root is needed, for network namespaces and BPF programs: run 'sudo make bench'")
	}
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if p.bin == "" {
		fmt.Fprintln(os.Stderr, "building sluice ...")
		if p.bin, err = sandbox.Build(ctx, dir); err != nil {
			return err
		}
	}
	arena, err := newArena(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, arena.close()) }()
	for _, add := range []func(context.Context, plan) error{arena.addDirect, arena.addSluice, arena.addNginx, arena.addReverse} {
		if err := add(ctx, p); err != nil {
			return err
		}
	}
	results, err := arena.measureAll(ctx, p)
	if err != nil {
		return err
	}
	if p.json {
		return json.NewEncoder(os.Stdout).Encode(results)
	}
	printTable(os.Stdout, p, results)
	return nil
}
