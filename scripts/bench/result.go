package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// result is one measurement of one contestant.
type result struct {
	Contestant string `json:"contestant"`
	Round      int    `json:"round"`
	Streams    bool   `json:"streams"`
	sample
	CPU float64 `json:"cpu_us"` // of the proxy, in microseconds a request or event
}

// measureAll does the rounds, the order rotating by one each time.
func (a *arena) measureAll(ctx context.Context, p plan) ([]result, error) {
	var all []result
	for _, streams := range []bool{false, true} {
		if (streams && p.streams == 0) || (!streams && p.connections == 0) {
			continue
		}
		for round := range p.rounds {
			what := "small requests"
			if streams {
				what = "event streams"
			}
			fmt.Fprintf(os.Stderr, "%s, round %d of %d\n", what, round+1, p.rounds)
			for i := range a.all {
				c := a.all[(i+round)%len(a.all)]
				r, err := a.measure(ctx, c, p, streams)
				if err != nil {
					return nil, err
				}
				r.Round, r.Streams = round, streams
				all = append(all, r)
			}
		}
	}
	return all, nil
}

// of picks one contestant's measurements, by round.
func of(all []result, contestant string, streams bool, pick func(result) float64) []float64 {
	var values []float64
	for _, r := range all {
		if r.Contestant == contestant && r.Streams == streams {
			values = append(values, pick(r))
		}
	}
	return values
}

// spread is the median of some values, the smallest and the largest.
func spread(values []float64) (median, least, most float64) {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0, 0, 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[0], sorted[n-1]
}

// ratios divides round by round, so that what disturbed a round cancels out.
func ratios(a, b []float64) []float64 {
	out := make([]float64, 0, len(a))
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}

// column is one figure of the table.
type column struct {
	head   string
	format string
	pick   func(result) float64
}

func rate(r result) float64 { return float64(r.Count) / r.Seconds }
func p50(r result) float64  { return r.P50 }
func p99(r result) float64  { return r.P99 }
func cpu(r result) float64  { return r.CPU }

// printTable prints medians over the rounds, with the smallest and the largest.
func printTable(w io.Writer, p plan, all []result) {
	fmt.Fprintf(w, "%d processors, %s; %d rounds of %s each; median (smallest .. largest round)\n\n",
		runtime.NumCPU(), runtime.Version(), p.rounds, time.Duration(p.seconds*float64(time.Second)))
	if p.connections > 0 {
		fmt.Fprintf(w, "Small requests, HTTP/1.1 over TLS, %d connections kept alive\n", p.connections)
		printPart(w, all, false, []column{
			{"requests/s", "%.0f", rate}, {"p50 us", "%.0f", p50}, {"p99 us", "%.0f", p99}, {"CPU us/request", "%.1f", cpu},
		})
	}
	if p.streams > 0 {
		fmt.Fprintf(w, "%d event streams, an event every %s each: how late an event is read\n", p.streams, p.interval)
		printPart(w, all, true, []column{
			{"events/s", "%.0f", rate}, {"p50 us", "%.0f", p50}, {"p99 us", "%.0f", p99}, {"CPU us/event", "%.1f", cpu},
		})
	}
}

func printPart(w io.Writer, all []result, streams bool, columns []column) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault
	head := table.Row{""}
	for _, c := range columns {
		head = append(head, c.head)
	}
	t.AppendHeader(head)
	line := func(name string, values func(column) []float64, format func(column) string, skip func(column) bool) {
		row := table.Row{name}
		for _, c := range columns {
			if median, least, most := spread(values(c)); skip(c) {
				row = append(row, "-")
			} else {
				f := format(c)
				row = append(row, fmt.Sprintf(f+" ("+f+" .. "+f+")", median, least, most))
			}
		}
		t.AppendRow(row)
	}
	own := func(c column) string { return c.format }
	for _, name := range []string{"direct", "sluice", "nginx", "net/http"} {
		line(name, func(c column) []float64 { return of(all, name, streams, c.pick) }, own,
			func(c column) bool { return name == "direct" && c.head[:3] == "CPU" })
	}
	t.AppendSeparator()
	for _, other := range []string{"nginx", "net/http"} {
		line("sluice / "+other, func(c column) []float64 {
			return ratios(of(all, "sluice", streams, c.pick), of(all, other, streams, c.pick))
		}, func(column) string { return "%.2f" }, func(column) bool { return false })
	}
	t.Render()
	fmt.Fprintln(w)
}
