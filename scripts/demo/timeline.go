package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/fatih/color"
	"golang.org/x/term"
)

// timeline prints what happens, one line a request; in colour on a terminal.
type timeline struct {
	w     io.Writer
	plain bool
	start time.Time
	mu    sync.Mutex // notices come when they come
}

func newTimeline(f *os.File) *timeline {
	return &timeline{
		w: f, start: time.Now(),
		plain: !term.IsTerminal(int(f.Fd())) || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb",
	}
}

// begin sets the clock to 0.
func (t *timeline) begin() {
	t.start = time.Now()
	t.row(color.Bold, "", "the agent asks", "gets", "upstream saw", "sluice pool status")
}

func (t *timeline) paint(a color.Attribute, text string) string {
	if t.plain {
		return text
	}
	c := color.New(a)
	c.EnableColor()
	return c.Sprint(text)
}

// say prints a line that is no request.
func (t *timeline) say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.w, format+"\n", args...)
}

// moment prints a line with the time.
func (t *timeline) moment(text string) {
	t.say("%s  %s", t.clock(), t.paint(color.Faint, text))
}

// notice prints what the operator is told.
func (t *timeline) notice(text string) {
	t.say("%s  %s", t.clock(), t.paint(color.FgYellow, "notice: "+text))
}

func (t *timeline) clock() string { return fmt.Sprintf("%6.2f s", time.Since(t.start).Seconds()) }

// request prints what was asked, seen, sent and is out.
func (t *timeline) request(asked string, status int, upstream, out string) {
	paint := color.FgGreen
	if status != 200 {
		paint = color.FgRed
	}
	t.row(paint, t.clock(), asked, fmt.Sprint(status), upstream, out)
}

// row pads before it paints: a terminal's codes have no width.
func (t *timeline) row(a color.Attribute, at, asked, got, upstream, out string) {
	line := fmt.Sprintf("%8s  %-27s  %s  %-28s  %s", at, asked, t.paint(a, fmt.Sprintf("%-4s", got)), upstream, out)
	t.say("%s", strings.TrimRight(line, " "))
}

// check prints one line of the verdict.
func (t *timeline) check(c check) {
	if c.err == nil {
		t.say("  %s %s", t.paint(color.FgGreen, "ok  "), c.what)
		return
	}
	t.say("  %s %s: %s", t.paint(color.FgRed, "FAIL"), c.what, c.err)
}
