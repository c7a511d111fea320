package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// The page's part between these two lines is this program's own.
const (
	beginMark = "<!-- what follows is written by `make growth` -->\n"
	endMark   = "<!-- until there -->"
)

// publish writes the chart and the table into the documentation of a source.
func publish(dir string, curves []curve, all [][]point) error {
	page := filepath.Join(dir, "docs", "performance.md")
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, found := bytes.Cut(text, []byte(beginMark))
	_, after, ended := bytes.Cut(rest, []byte(endMark))
	if !found || !ended {
		return fmt.Errorf("%s: the lines %q and %q are not there", page, beginMark, endMark)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s%s\n![cost over size](growth.svg)\n\n| what is done | of how many | processor time |\n| --- | --- | --- |\n", before, beginMark)
	for i, c := range curves {
		for j, p := range all[i] {
			title := c.title
			if j > 0 {
				title = ""
			}
			fmt.Fprintf(&out, "| %s | %d %s | %s |\n", title, p.size, c.of, short(p.cost))
		}
	}
	fmt.Fprintf(&out, "\n%s%s", endMark, after)
	return errors.Join(
		os.WriteFile(page, out.Bytes(), 0o644),
		os.WriteFile(filepath.Join(dir, "docs", "growth.svg"), chart(curves, all), 0o644))
}

// short is a time with three digits.
func short(d time.Duration) string { return d.Round(max(1, d/1000)).String() }
