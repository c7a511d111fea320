package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/sluice-proxy/sluice/control/api"
)

// watcher shows a pool for as long as somebody looks at it. The stream of events says when
// to ask for it anew; what changes with time alone, the end of a cooldown, has its instant.
type watcher struct {
	*cli
	client *api.Client
	name   string
	show   func(p api.PoolStatus, lost error) error // lost is why what is shown may be old

	last api.PoolStatus
	lost error
}

// watchPool shows a pool until ctx ends, which is no error, or the pool is removed.
func (c *cli) watchPool(ctx context.Context, client *api.Client, name string) error {
	w := &watcher{cli: c, client: client, name: name, show: c.sayPool}
	var beat <-chan time.Time
	painted := terminal(c.stdout) && c.format != formatJSON
	if painted {
		w.show = newPainter(c).paint
		ticker := time.NewTicker(time.Second) // the times that are left are counted down
		defer ticker.Stop()
		beat = ticker.C
	}
	status, err := client.Pool(ctx, name)
	if err != nil {
		return err
	}
	last, err := client.Events(ctx, 1)
	if err != nil {
		return err
	}
	f := following{client: client}
	if len(last) > 0 {
		f.after = last[0].Seq
	}
	news := make(chan error) // nil: the pool may be another; else the daemon is away
	f.lost = func(err error) { send(ctx, news, err) }
	f.back = func() { send(ctx, news, nil) }
	f.each = func(e api.Event) error {
		// A credential's own events have no pool.
		if e.Pool == "" || e.Pool == name {
			send(ctx, news, nil)
		}
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.run(ctx) })
	group.Go(func() error {
		if err := w.changed(status); err != nil {
			return err
		}
		return w.run(ctx, news, beat)
	})
	err = group.Wait()
	if painted && err == nil {
		fmt.Fprintln(c.stdout) // what comes next is not put behind the ^C that the terminal shows
	}
	return err
}

func send(ctx context.Context, news chan<- error, err error) {
	select {
	case <-ctx.Done():
	case news <- err:
	}
}

func (w *watcher) run(ctx context.Context, news <-chan error, beat <-chan time.Time) error {
	for {
		var due <-chan time.Time
		if wait, found := nextEnd(w.last, w.now()); found {
			due = time.After(wait)
		}
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-beat:
			err = w.show(w.last, w.lost)
		case lost := <-news:
			if lost != nil {
				w.lost = lost
				err = w.show(w.last, w.lost)
				break
			}
			err = w.ask(ctx)
		case <-due:
			err = w.ask(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// ask looks at the pool. That the daemon is away is not said here: its stream of events
// has ended too then, and says so once.
func (w *watcher) ask(ctx context.Context) error {
	status, err := w.client.Pool(ctx, w.name)
	switch {
	case ctx.Err() != nil || passing(err):
		return nil
	case err != nil:
		return err
	}
	return w.changed(status)
}

// changed shows the pool if it is another one than was shown, or is known again.
func (w *watcher) changed(status api.PoolStatus) error {
	if w.lost == nil && same(w.last, status) {
		return nil
	}
	w.last, w.lost = status, nil
	return w.show(w.last, nil)
}

// same compares pools but for what changes from second to second.
func same(a, b api.PoolStatus) bool {
	still := func(p api.PoolStatus) api.PoolStatus {
		members := make([]api.Member, 0, len(p.Members))
		for _, m := range p.Members {
			m.RemainingSeconds = 0
			members = append(members, m)
		}
		p.Members = members
		return p
	}
	return reflect.DeepEqual(still(a), still(b))
}

// nextEnd is how long it is to the soonest end of a cooldown. The daemon may be a moment
// behind: what ought to have ended is asked for again after a second.
func nextEnd(p api.PoolStatus, now time.Time) (wait time.Duration, found bool) {
	for _, m := range p.Members {
		if m.Until == nil || m.State != api.Cooldown {
			continue
		}
		left := m.Until.Sub(now) + 50*time.Millisecond
		if left <= 0 {
			left = time.Second
		}
		if !found || left < wait {
			wait, found = left, true
		}
	}
	return wait, found
}

// sayPool is show for a pipe, where each change is a line: of JSON, or of words.
func (c *cli) sayPool(p api.PoolStatus, lost error) error {
	if lost != nil {
		fmt.Fprintf(c.stderr, "sluice: pool %s: %s; going on once it is back, Ctrl-C ends this\n", p.Name, oneLine(lost))
		return nil
	}
	if c.format == formatJSON {
		encoder := json.NewEncoder(c.stdout)
		encoder.SetEscapeHTML(false)
		return encoder.Encode(p)
	}
	_, err := fmt.Fprintln(c.stdout, c.poolLine(p, c.now()))
	return err
}

// poolLine is a pool on one line.
func (c *cli) poolLine(p api.PoolStatus, now time.Time) string {
	words := []string{now.Local().Format("2006-01-02 15:04:05"), p.Name, c.state(string(p.State))}
	for _, m := range p.Members {
		word := m.Name + "=" + c.state(string(m.State))
		if m.Until != nil {
			word += " until " + m.Until.Local().Format("2006-01-02 15:04:05")
		}
		if m.Reason != "" {
			word += " (" + m.Reason + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, "  ")
}

// painter keeps a pool in one place of a terminal.
type painter struct {
	*cli
	lines int // that the last painting takes
}

func newPainter(c *cli) *painter { return &painter{cli: c} }

// paint puts the pool over what it has painted last, in one write, so that nothing flickers.
func (p *painter) paint(status api.PoolStatus, lost error) error {
	var shown bytes.Buffer
	c := *p.cli
	c.stdout, c.stderr, c.colour = &shown, &shown, colourNever
	if p.coloured() {
		c.colour = colourAlways
	}
	if err := c.printPool(status); err != nil {
		return err
	}
	away := ""
	if lost != nil {
		away = fmt.Sprintf("\n%s: %s; going on once it is back\n", c.state("failed"), oneLine(lost))
	}
	columns, rows := 80, 24
	if file, ok := p.stdout.(*os.File); ok {
		if w, h, err := term.GetSize(int(file.Fd())); err == nil && w > 0 && h > 0 {
			columns, rows = w, h
		}
	}
	over := ""
	if p.lines > 0 {
		// Not higher than the screen: what has left it above cannot be painted over.
		over = fmt.Sprintf("\r\x1b[%dA\x1b[J", min(p.lines, rows-1))
	}
	// A line above stays, too: tmux keeps a copy of what is cleared from the first line on.
	painted := fitting(shown.String(), columns, rows-2-height(away, columns)) + away
	p.lines = height(painted, columns)
	_, err := io.WriteString(p.stdout, over+painted)
	return err
}

// fitting is what so many lines of a terminal have room for: more would scroll away, anew with each painting.
func fitting(painted string, columns, lines int) string {
	if height(painted, columns) <= lines {
		return painted
	}
	var kept strings.Builder
	left, out := lines-1, 0 // the last one is for how many were left out
	for line := range strings.Lines(painted) {
		if left -= height(line, columns); left < 0 || out > 0 {
			out++
			continue
		}
		kept.WriteString(line)
	}
	fmt.Fprintf(&kept, "... and %d more\n", out)
	return kept.String()
}

// height is how many lines of a terminal a text takes.
func height(painted string, columns int) int {
	lines := 0
	for line := range strings.Lines(painted) {
		width := text.StringWidthWithoutEscSequences(strings.TrimSuffix(line, "\n"))
		lines += max(1, (width+columns-1)/columns)
	}
	return lines
}
