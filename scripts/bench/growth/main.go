// Command growth measures what a request, a connection or a leaf costs when there are ten, a thousand or ten thousand times as many pools, namespaces, hosts and events.
//
// Each curve is of the real part, in a process of its own making: the keeper over SQLite, kernel namespaces, the CA. What is
// done is what one request or one connection does, on things drawn at random. A curve passes if from its first size to its
// last the cost grows no faster than the logarithm of the size does, with room for what caches of the processor lose.
//
//	sudo go run ./scripts/bench/growth
//	sudo make growth
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
)

// curve is one cost over sizes.
type curve struct {
	name, title, of string // of what there are more and more
	sizes           []int
	// prepare makes n of them in dir and returns what is measured; undo is called afterwards.
	prepare func(ctx context.Context, dir string, n int) (step func() error, undo func() error, err error)
}

// point is what one size cost.
type point struct {
	size int
	cost time.Duration // processor time of one step: the median of several batches
}

// rounds is how many batches are measured; a batch goes on for long enough that the clock does not matter.
const (
	rounds = 9
	batch  = 40 * time.Millisecond
)

func main() {
	write := flag.String("write", "", "`directory` of the source whose docs/ are to hold the result")
	only := flag.String("only", "", "curve to measure; none: all")
	flag.Parse()
	ctx, stop := sandbox.Signals()
	defer stop()
	if err := run(ctx, *write, *only); err != nil {
		fmt.Fprintln(os.Stderr, "growth: "+err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, write, only string) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed, for network namespaces: run it with sudo")
	}
	dir, err := os.MkdirTemp("", "sluice-growth-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if only != "" && write != "" {
		return errors.New("-write needs every curve")
	}
	var measured []curve
	var all [][]point
	var linear []error
	for _, c := range curves() {
		if only != "" && c.name != only {
			continue
		}
		points, err := c.measure(ctx, dir)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Printf("%-12s %s\n", c.name, c.title)
		for _, p := range points {
			fmt.Printf("  %9d %s  %v\n", p.size, c.of, p.cost)
		}
		if grown := growth(points); grown > allowed(points) {
			linear = append(linear, fmt.Errorf("%s: %.1f times dearer, where %.1f is logarithmic", c.name, grown, allowed(points)))
		}
		measured, all = append(measured, c), append(all, points)
	}
	if write != "" {
		if err := publish(write, measured, all); err != nil {
			return err
		}
	}
	return errors.Join(linear...)
}

// growth is how many times dearer the largest size is than the smallest.
func growth(points []point) float64 {
	first, last := points[0].cost, points[len(points)-1].cost
	return float64(last) / float64(max(first, time.Nanosecond))
}

// allowed is twice what the logarithm allows: memory that is further away is slower, too.
func allowed(points []point) float64 {
	return 2 * math.Log(float64(points[len(points)-1].size)) / math.Log(float64(max(2, points[0].size)))
}

func (c curve) measure(ctx context.Context, dir string) ([]point, error) {
	var points []point
	for _, n := range c.sizes {
		place, err := os.MkdirTemp(dir, c.name)
		if err != nil {
			return nil, err
		}
		step, undo, err := c.prepare(ctx, place, n)
		if err != nil {
			return nil, fmt.Errorf("%d %s: %w", n, c.of, err)
		}
		cost, err := median(ctx, step)
		if err = errors.Join(err, undo(), os.RemoveAll(place)); err != nil {
			return nil, fmt.Errorf("%d %s: %w", n, c.of, err)
		}
		points = append(points, point{n, cost})
	}
	return points, nil
}

// used is the processor time of this process: how busy the machine is besides does not matter to it.
func used() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// median measures batches of steps, the first of which does not count.
func median(ctx context.Context, step func() error) (time.Duration, error) {
	var costs []time.Duration
	for round := range rounds + 1 {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		steps, start, before := 0, time.Now(), used()
		for time.Since(start) < batch {
			for range 8 {
				if err := step(); err != nil {
					return 0, err
				}
				steps++
			}
		}
		if round > 0 {
			costs = append(costs, (used()-before)/time.Duration(steps))
		}
	}
	slices.Sort(costs)
	return costs[len(costs)/2], nil
}
