package main

// What sluice prints, and where:
//
//   - What was asked for goes to standard output; everything else to standard error.
//   - -o json prints the REST body: an object, or an array for a list (never null).
//   - A table is aligned. On a terminal states have a colour, unless NO_COLOR is set (https://no-color.org) or
//     TERM is dumb; --color says otherwise. Nothing is cut off to fit a width.
//   - An error is one line, "sluice: what: why; what to do", lower case, no full stop.
//   - A command that changes something prints the name or id of it, so that scripts can go on with that.

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fatih/color"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

const (
	formatTable = "table"
	formatJSON  = "json"
)

// What --color may be.
const (
	colourAuto   = "auto"
	colourAlways = "always"
	colourNever  = "never"
)

var colours = []string{colourAuto, colourAlways, colourNever}

// print writes value as JSON, or calls show for people.
func (c *cli) print(value any, show func()) error {
	if c.format != formatJSON {
		to := &checked{Writer: c.stdout}
		c.stdout = to
		defer func() { c.stdout = to.Writer }()
		show()
		return to.err
	}
	encoder := json.NewEncoder(c.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// checked remembers that something could not be written.
type checked struct {
	io.Writer
	err error
}

func (w *checked) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if w.err == nil {
		w.err = err
	}
	return n, err
}

// done says that a change was made: its name for people, the object for programs.
func (c *cli) done(value any, name string) error {
	return c.print(value, func() { fmt.Fprintln(c.stdout, name) })
}

// removed names what is gone: a line for people, and for programs an object of which that is the only key.
func (c *cli) removed(key, name string) error {
	return c.done(map[string]string{key: name}, name)
}

// table prints rows under a heading, or the words for "there is none".
func (c *cli) table(none string, heading []any, rows [][]any) {
	if len(rows) == 0 {
		fmt.Fprintln(c.stderr, none)
		return
	}
	t := table.NewWriter()
	t.SetStyle(table.Style{
		Name: "sluice",
		Box:  table.BoxStyle{PaddingRight: "  "},
		Format: table.FormatOptions{
			Header: text.FormatUpper,
		},
	})
	t.SuppressTrailingSpaces()
	t.AppendHeader(heading)
	for _, row := range rows {
		t.AppendRow(row)
	}
	fmt.Fprintln(c.stdout, t.Render())
}

// fields prints a heading and its value on each line.
func (c *cli) fields(pairs ...string) {
	width := 0
	for i := 0; i < len(pairs); i += 2 {
		width = max(width, len(pairs[i]))
	}
	for i := 0; i < len(pairs); i += 2 {
		fmt.Fprintf(c.stdout, "%-*s  %s\n", width, pairs[i], pairs[i+1])
	}
}

// coloured says whether standard output is to have colours.
func (c *cli) coloured() bool {
	if c.colour == colourAlways || c.colour == colourNever {
		return c.colour == colourAlways
	}
	return terminal(c.stdout) && c.getenv("NO_COLOR") == "" && c.getenv("TERM") != "dumb"
}

// state gives a state the colour of a traffic light.
func (c *cli) state(word string) string {
	if !c.coloured() {
		return word
	}
	light := color.FgGreen
	switch word {
	case "degraded", "cooldown", "parked", "waiting", "WARN":
		light = color.FgYellow
	case "exhausted", "failed", "not_in_force", "FAIL":
		light = color.FgRed
	case "standby":
		return word
	}
	paint := color.New(light)
	paint.EnableColor() // coloured has looked at the terminal and the environment; the library would once more
	return paint.Sprint(word)
}

// list joins words, or says that there is none.
func list(words []string) string {
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, ", ")
}

func dash(word string) string {
	if word == "" {
		return "-"
	}
	return word
}

// span says a duration as people do: 41m, 2h14m, 12s.
func span(d time.Duration) string {
	d = d.Round(time.Second)
	hours, minutes, seconds := d/time.Hour, d%time.Hour/time.Minute, d%time.Minute/time.Second
	switch {
	case hours >= 48:
		return fmt.Sprintf("%dd%dh", hours/24, hours%24)
	case hours > 0:
		return fmt.Sprintf("%dh%02dm", hours, minutes)
	case minutes > 0 && seconds > 0 && minutes < 10:
		return fmt.Sprintf("%dm%02ds", minutes, seconds)
	case minutes > 0:
		return fmt.Sprintf("%dm", minutes)
	}
	return fmt.Sprintf("%ds", seconds)
}

// moment is an instant on this machine's clock and how far away it is.
func (c *cli) moment(t *time.Time) string {
	if t == nil {
		return "-"
	}
	const day = "2006-01-02 15:04:05"
	switch away := t.Sub(c.now()); {
	case away >= 24*time.Hour: // the same time of another day is meant
		return t.Local().Format(day) + " (in " + span(away) + ")"
	case away > 0:
		return t.Local().Format("15:04:05") + " (in " + span(away) + ")"
	}
	return t.Local().Format(day)
}
