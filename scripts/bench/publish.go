package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
)

// The pages' parts between these two lines are the run's own.
const (
	beginMark = "<!-- what follows is written by `make bench` -->"
	endMark   = "<!-- until here -->"
)

// headline is a figure that the README shows.
type headline struct {
	work, head string
	format     string
	pick       func(result) float64
	proxied    bool
}

var headlines = []headline{
	{"h1-16", "CPU of a small request, us", "%.0f", cpuEach, true},
	{"h1-16", "p99 of a small request, us", "%.0f", p99, false},
	{"body-40k", "CPU of a 40 KB request, us", "%.0f", cpuEach, true},
	{"streams-2000", "p99 of an event's lateness, 2,000 streams, us", "%.0f", p99, false},
	{"down-1m", "answers of 1 MiB, MiB/s", "%.0f", mibPerSecond, false},
	{"idle", "RSS of idle streams, KiB each", "%.0f", kibEach, true},
}

// publish writes the result into the pages of the source.
func (o *outcome) publish(dir string) error {
	chart := filepath.Join("docs", "bench.svg")
	var full strings.Builder
	fmt.Fprintf(&full, "%s, on %s.\n%s. Ratios are taken round by round.\n", o.Machine, o.Time.Format("2006-01-02"), o.rule())
	for _, w := range o.works {
		fmt.Fprintf(&full, "\n### %s\n\n%s\n", w.title, o.table(w).RenderMarkdown())
		for _, line := range o.footnotes(w) {
			fmt.Fprintf(&full, "\n%s.\n", strings.TrimSuffix(line, "."))
		}
	}
	short := fmt.Sprintf("![sluice beside nginx, HAProxy, net/http and mitmproxy](%s)\n\n%s\n\n%s; %s.\n",
		filepath.ToSlash(chart), o.summary(), o.Machine, o.rule())
	return errors.Join(
		os.WriteFile(filepath.Join(dir, chart), o.chart(), 0o644),
		replaceBetween(filepath.Join(dir, "README.md"), short),
		replaceBetween(filepath.Join(dir, "docs", "performance.md"), full.String()))
}

// summary is the README's table: medians, and for sluice its ratio to nginx of the same rounds.
func (o *outcome) summary() string {
	t := table.NewWriter()
	head := table.Row{""}
	for _, h := range headlines {
		head = append(head, h.head)
	}
	t.AppendHeader(head)
	for _, name := range o.among {
		row := table.Row{name}
		for _, h := range headlines {
			values := o.of(name, h.work, h.pick)
			if len(values) == 0 || name == directName && h.proxied {
				row = append(row, "-")
				continue
			}
			median, _, _ := spread(values)
			row = append(row, fmt.Sprintf(h.format, median))
		}
		t.AppendRow(row)
	}
	row := table.Row{sluiceName + " / nginx"}
	for _, h := range headlines {
		median, least, most := spread(ratios(o.of(sluiceName, h.work, h.pick), o.of("nginx", h.work, h.pick)))
		row = append(row, fmt.Sprintf("%.2f (%.2f .. %.2f)", median, least, most))
	}
	t.AppendRow(row)
	return t.RenderMarkdown()
}

// replaceBetween puts text between the marks of a page. It is written aside and renamed.
func replaceBetween(file, text string) error {
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, found := bytes.Cut(page, []byte(beginMark+"\n"))
	_, after, ended := bytes.Cut(rest, []byte(endMark))
	if !found || !ended {
		return fmt.Errorf("%s: the lines %q and %q are not there", file, beginMark, endMark)
	}
	whole := fmt.Sprintf("%s%s\n%s\n%s%s", before, beginMark, strings.TrimSpace(text), endMark, after)
	if err := os.WriteFile(file+".new", []byte(whole), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
