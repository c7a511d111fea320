package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
)

// limit is how long one measurement may take before it counts as not done.
const limit = 4 * time.Minute

// result is one measurement of one contestant.
type result struct {
	Work       string `json:"work"`
	Contestant string `json:"contestant"`
	Round      int    `json:"round"`
	sample
	CPU float64 `json:"cpu_us"` // of the proxy while it was measured, in microseconds
	RSS float64 `json:"rss"`    // the most that its processes together had resident, in bytes
}

// measureAll does the rounds of each work, the order rotating by one each time. Who
// cannot do a work is not asked for it again.
func (a *arena) measureAll(ctx context.Context, p plan) (*outcome, error) {
	o := newOutcome(p)
	for _, w := range p.works {
		for round := range p.rounds {
			fmt.Fprintf(os.Stderr, "%-12s round %d of %d\n", w.name, round+1, p.rounds)
			for i := range a.all {
				c := a.all[(i+round)%len(a.all)]
				if !w.isFor(c.name) || o.Unable[c.name][w.name] != "" {
					continue
				}
				r, err := a.measure(ctx, c, w, p.seconds, round)
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				if err != nil {
					fmt.Fprintf(os.Stderr, "%s: %s: %v\n", w.name, c.name, err)
					if c.said != nil {
						fmt.Fprintf(os.Stderr, "  what %s said last:\n%s\n", c.name, c.said())
					}
					o.unable(c.name, w.name, err)
					continue
				}
				o.Results = append(o.Results, r)
			}
		}
	}
	return o, nil
}

// measure runs the clients of one contestant once.
func (a *arena) measure(ctx context.Context, c contestant, w work, seconds float64, round int) (r result, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if c.around != nil {
		undo, err := c.around(ctx)
		if err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, undo()) }()
	}
	args := append([]string{"-roots", c.roots, "-key", c.key, "-seconds", strconv.FormatFloat(seconds, 'f', -1, 64)}, w.args...)
	switch w.host {
	case "":
		args = append(args, "-host", upstreamHost)
	case unboundHost:
		args = append(args, "-host", w.host, "-key", realKey) // nobody puts the key in
	default:
		args = append(args, "-host", w.host, "-first", strconv.Itoa(round*freshHosts))
	}
	cmd, said := a.clients(c, args...), sandbox.NewTail("", false)
	cmd.Stderr = said
	if c.within != nil {
		in, err := inside(cmd, c.within)
		if err != nil {
			return r, err
		}
		defer in.Close()
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return r, err
	}
	release := a.upstream.hold()
	defer release()
	if err := a.ns.Do(cmd.Start); err != nil {
		return r, err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	r, err = c.follow(out, release)
	err = errors.Join(err, cmd.Wait())
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return r, fmt.Errorf("not done within %s", limit)
	}
	if err != nil {
		return r, errors.Join(ctx.Err(), fmt.Errorf("%w\n%s", err, said.Text()))
	}
	r.Work, r.Contestant, r.Round = w.name, c.name, round
	return r, nil
}

// follow reads what the clients print, and the processor time when they begin and end. When
// all streams are open it releases the events.
func (c contestant) follow(out io.Reader, release func()) (r result, err error) {
	var before, after time.Duration
	var most atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		c.watchMemory(stop, &most)
	}()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		switch line := lines.Text(); line {
		case "open":
			release()
		case "go":
			before, err = c.cpu()
		case "end":
			var endErr error
			after, endErr = c.cpu()
			err = errors.Join(err, endErr)
		default:
			if decodeErr := json.Unmarshal([]byte(line), &r.sample); decodeErr != nil {
				err = errors.Join(err, fmt.Errorf("the clients printed %q", line))
			}
		}
	}
	close(stop)
	<-stopped
	if r.Count == 0 && r.Bytes == 0 {
		return r, errors.Join(err, lines.Err(), errors.New("the clients ended without a result"))
	}
	r.CPU, r.RSS = float64(after-before)/float64(time.Microsecond), float64(most.Load())
	return r, err
}

// watchMemory looks ten times a second, and a last time when it is told to stop.
func (c contestant) watchMemory(stop <-chan struct{}, most *atomic.Int64) {
	if c.cgroup == nil {
		<-stop
		return
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		most.Store(max(most.Load(), resident(c.cgroup.Path())))
		select {
		case <-tick.C:
		case <-stop:
			return
		}
	}
}

// resident is the memory of a cgroup's processes, in bytes.
func resident(cgroup string) (total int64) {
	pids, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	if err != nil {
		return 0
	}
	for pid := range strings.FieldsSeq(string(pids)) {
		statm, err := os.ReadFile(filepath.Join("/proc", pid, "statm"))
		if fields := strings.Fields(string(statm)); err == nil && len(fields) > 1 {
			if pages, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				total += pages * int64(os.Getpagesize())
			}
		}
	}
	return total
}

// cpu is the processor time of the proxy so far; the direct way has no proxy.
func (c contestant) cpu() (time.Duration, error) {
	if c.cgroup == nil {
		return 0, nil
	}
	return c.cgroup.CPU()
}
