package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// print prints a table for each work: medians over the rounds, with the smallest and the
// largest, and the ratios to the others.
func (o *outcome) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n%s\n\n", o.Machine, o.rule())
	for _, work := range o.works {
		fmt.Fprintf(w, "%s (%s)\n", work.title, work.name)
		fmt.Fprintf(w, "%s\n", o.table(work).Render())
		for _, line := range o.footnotes(work) {
			fmt.Fprintln(w, line)
		}
		fmt.Fprintln(w)
	}
}

// rule says how the figures are to be read.
func (o *outcome) rule() string {
	return fmt.Sprintf("%d rounds, %s each; median (smallest .. largest round)",
		o.Rounds, time.Duration(o.Seconds*float64(time.Second)))
}

// taking are the contestants that did the work.
func (o *outcome) taking(w work) []string {
	return slices.DeleteFunc(slices.Clone(o.among), func(name string) bool {
		return len(o.of(name, w.name, p50)) == 0
	})
}

func (o *outcome) table(w work) table.Writer {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault
	head := table.Row{""}
	for _, c := range w.columns {
		head = append(head, c.head)
	}
	t.AppendHeader(head)
	line := func(name string, values func(column) []float64, format func(column) string, skip func(column) bool) {
		row := table.Row{name}
		for _, c := range w.columns {
			if median, least, most := spread(values(c)); skip(c) {
				row = append(row, "-")
			} else {
				f := format(c)
				row = append(row, fmt.Sprintf(f+" ("+f+" .. "+f+")", median, least, most))
			}
		}
		t.AppendRow(row)
	}
	taking := o.taking(w)
	for _, name := range taking {
		line(name, func(c column) []float64 { return o.of(name, w.name, c.pick) }, func(c column) string { return c.format },
			func(c column) bool { return name == directName && c.proxied })
	}
	if !slices.Contains(taking, sluiceName) {
		return t
	}
	t.AppendSeparator()
	for _, other := range taking {
		if other == sluiceName {
			continue
		}
		line(sluiceName+" / "+other, func(c column) []float64 {
			return ratios(o.of(sluiceName, w.name, c.pick), o.of(other, w.name, c.pick))
		}, func(column) string { return "%.2f" }, func(c column) bool { return other == directName && c.proxied })
	}
	return t
}

// footnotes say who could not do the work.
func (o *outcome) footnotes(w work) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(o.Unable)) {
		if why := o.Unable[name][w.name]; why != "" {
			lines = append(lines, fmt.Sprintf("%s could not do it: %s", name, strings.TrimSpace(why)))
		}
	}
	return lines
}
