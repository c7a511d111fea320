// Command bench measures sluice beside what people would use instead: nginx, HAProxy, net/http's ReverseProxy and mitmproxy, all of which end TLS and set the header.
//
// All of them, the upstream and the clients share one network namespace. Each round measures every contestant once, in an
// order that rotates, so that what else the machine does meets all alike; ratios are taken round by round. Processor time and
// memory are those of all of a proxy's processes, from its cgroup. The clients of sluice are in an attached cgroup and connect
// to the upstream, as do those of mitmproxy, which nftables redirects; the others connect to the proxy. "direct" is no proxy
// at all: what the upstream and the clients can do.
//
//	sudo make bench
//	sudo make bench BENCH=small,streams
//	sudo go run ./scripts/bench -work h1-16 -rounds 9 -seconds 5
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
)

// plan is what is measured, and how.
type plan struct {
	bin     string
	works   []work
	among   []string
	rounds  int
	seconds float64
	streams int // on which nothing happens: as many as the limit of open files allows, two for each and an eighth for the rest
	json    string
	write   string
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
	p, status := parse(args)
	if status >= 0 {
		return status
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

// parse reads the flags. A status of 0 or more is the program's end.
func parse(args []string) (plan, int) {
	var p plan
	var names, among string
	var list bool
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&p.bin, "bin", os.Getenv("BIN"), "sluice `executable` to measure; none: built from ./cmd/sluice")
	flags.StringVar(&names, "work", "", "works or groups of them to measure, comma-separated; none: all")
	flags.StringVar(&among, "among", "", "contestants to measure, comma-separated; none: all")
	flags.IntVar(&p.rounds, "rounds", 5, "rounds; each measures every contestant once")
	flags.Float64Var(&p.seconds, "seconds", 1.5, "length of one measurement")
	flags.StringVar(&p.json, "json", "", "`file` to write every measurement to")
	flags.StringVar(&p.write, "write", "", "`directory` of the source whose pages are to hold the result: README.md, docs/performance.md, docs/bench.svg")
	flags.BoolVar(&list, "list", false, "list the works")
	if err := flags.Parse(args); err != nil {
		return p, 2
	}
	if list {
		for _, w := range works() {
			fmt.Printf("%-12s %-10s %s\n", w.name, w.group, w.title)
		}
		return p, 0
	}
	var err error
	if p.works, err = chosen(works(), names); err == nil {
		p.among, err = contestants(among)
	}
	switch {
	case err != nil:
	case p.rounds < 1 || p.seconds <= 0:
		err = errors.New("rounds and seconds have to be positive")
	case p.write != "" && (names != "" || among != ""):
		err = errors.New("-write needs every work and every contestant: the pages hold the result of one run")
	case p.write != "" && p.rounds < 5:
		err = errors.New("-write needs at least 5 rounds")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		return p, 2
	}
	return p, -1
}

// contestants are those that are named, and what they are compared with.
func contestants(names string) ([]string, error) {
	if names == "" {
		return everybody, nil
	}
	chosen := strings.Split(names, ",")
	for _, name := range chosen {
		if !slices.Contains(everybody, name) {
			return nil, fmt.Errorf("there is no contestant %q: there are %s", name, strings.Join(everybody, ", "))
		}
	}
	return chosen, nil
}

// compare sets everything up, measures, prints and takes everything down.
func compare(ctx context.Context, p plan) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed, for network namespaces and BPF programs: run 'sudo make bench'")
	}
	p.streams = min(idleStreams, descriptors()*7/16)
	p.works = fit(p.works, p.streams)
	outcome, err := run(ctx, p)
	if err != nil {
		return err
	}
	if p.json != "" {
		if err := outcome.save(p.json); err != nil {
			return err
		}
	}
	outcome.print(os.Stdout)
	if p.write != "" {
		if err := outcome.publish(p.write); err != nil {
			return err
		}
	}
	if why := outcome.Unable[sluiceName]; len(why) > 0 {
		return fmt.Errorf("sluice did not do all of the work: %v", why)
	}
	return nil
}

// descriptors raises the limit of open files, which the children inherit, as far as the
// host lets it, and returns what it is.
func descriptors() int {
	want := syscall.Rlimit{Cur: 1 << 16, Max: 1 << 16}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want) == nil {
		return int(want.Cur)
	}
	// Root in a container may lack CAP_SYS_RESOURCE.
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 1024
	}
	limit.Cur = limit.Max
	_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) // and so the children keep it
	return int(min(limit.Cur, 1<<16))
}

// run measures everything in an arena that is gone afterwards.
func run(ctx context.Context, p plan) (_ *outcome, err error) {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if p.bin == "" {
		fmt.Fprintln(os.Stderr, "building sluice ...")
		if p.bin, err = sandbox.Build(ctx, dir); err != nil {
			return nil, err
		}
	}
	arena, err := newArena(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, arena.close()) }()
	for _, name := range p.among {
		if err := arena.add(ctx, name, p); err != nil {
			return nil, err
		}
	}
	return arena.measureAll(ctx, p)
}
