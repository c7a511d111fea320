package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/control/api"
)

// followed is a command that goes on, on pipes.
type followed struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string // closed at the end of standard output
	said  chan string // on standard error
}

func (h *house) follow(args ...string) *followed {
	h.t.Helper()
	cmd := command(h.t, []string{"SLUICE_SOCKET=" + h.socket, "TZ=UTC"}, args...)
	f := &followed{t: h.t, cmd: cmd, lines: make(chan string, 1000), said: make(chan string, 1000)}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	read := func(from io.Reader, to chan<- string) {
		defer close(to)
		for s := bufio.NewScanner(from); s.Scan(); {
			to <- s.Text()
		}
	}
	go read(stdout, f.lines)
	go read(stderr, f.said)
	h.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return f
}

// next is the next line.
func (f *followed) next(from <-chan string) string {
	f.t.Helper()
	select {
	case line, ok := <-from:
		if !ok {
			f.t.Fatal("it has ended")
		}
		return line
	case <-time.After(commandLimit):
		f.t.Fatal("nothing comes")
	}
	return ""
}

// interrupt is Ctrl-C: what is left to come, and the status.
func (f *followed) interrupt() (rest []string, status int) {
	f.t.Helper()
	if err := f.cmd.Process.Signal(syscall.SIGINT); err != nil {
		f.t.Fatal(err)
	}
	return f.end()
}

func (f *followed) end() (rest []string, status int) {
	f.t.Helper()
	for line := range f.lines {
		rest = append(rest, line)
	}
	var failed *exec.ExitError
	if err := f.cmd.Wait(); err != nil && !errors.As(err, &failed) {
		f.t.Fatal(err)
	}
	return rest, f.cmd.ProcessState.ExitCode()
}

// TestFollowOutlivesTheDaemon kills the daemon three times while events are followed, and has
// something happen each time before it dies and after it is back: each event comes once, in
// order, none is missing.
func TestFollowOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	h := newEmptyHouse(t, nil, nil)
	h.sluice("s", "cred", "add", "before")
	f := h.follow("events", "--follow", "-n", "1", "-o", "json")
	f.next(f.lines)
	for i := range 3 {
		h.sluice("s", "cred", "add", fmt.Sprintf("early-%d", i))
		h.daemon.kill()
		if said := f.next(f.said); !strings.Contains(said, "going on once it is back") {
			t.Errorf("%q", said)
		}
		h.start()
		h.sluice("s", "cred", "add", fmt.Sprintf("late-%d", i))
		if said := f.next(f.said); !strings.Contains(said, "the daemon is back") {
			t.Errorf("%q", said)
		}
	}
	var all []api.Event
	if err := json.Unmarshal([]byte(h.sluice("", "events", "-o", "json")), &all); err != nil {
		t.Fatal(err)
	}
	for _, want := range all[1:] { // the first has been read
		var got api.Event
		if err := json.Unmarshal([]byte(f.next(f.lines)), &got); err != nil || got.Seq != want.Seq || got.Kind != want.Kind {
			t.Fatalf("%v: %+v, want %+v", err, got, want)
		}
	}
	if rest, status := f.interrupt(); len(rest) != 0 || status != exitDone || len(all) < 7 {
		t.Errorf("status %d, and beyond %d events there come %v", status, len(all), rest)
	}
}

// TestWatchOnPipe prints a line for each change and for nothing else, in a restart of the
// daemon too, and ends when the pool is gone.
func TestWatchOnPipe(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	if err := h.sim.Spend("first", 3*time.Second); err != nil {
		t.Fatal(err)
	}
	words := h.follow("pool", "status", "openai", "--watch")
	objects := h.follow("pool", "status", "openai", "-w", "-o", "json")
	expect := func(line string, states ...string) {
		t.Helper()
		got := words.next(words.lines)
		for _, want := range append(states, line) {
			if !strings.Contains(got, want) {
				t.Errorf("%q has no %q", got, want)
			}
		}
		var p api.PoolStatus
		if err := json.Unmarshal([]byte(objects.next(objects.lines)), &p); err != nil || string(p.State) != strings.TrimSpace(line) {
			t.Errorf("%v: %+v, want %s", err, p, line)
		}
	}
	expect("  healthy  ", "a1=active", "a2=standby")
	if got := h.chat("-d", chatBody); !strings.Contains(got, "\n200 ") {
		t.Fatal(got)
	}
	expect("  degraded  ", "a1=cooldown until ", "(rate limit (429)", "a2=active")
	expect("  healthy  ", "a1=standby", "a2=active") // with time alone: no event says so
	h.sluice("", "pool", "clear", "claude")          // is another pool
	h.daemon.kill()
	if said := words.next(words.said); !strings.Contains(said, "pool openai: ") || !strings.Contains(said, "going on once it is back") {
		t.Errorf("%q", said)
	}
	h.start()
	h.sluice("", "pool", "rotate", "openai")
	for line := ""; !strings.Contains(line, "a1=active"); { // what is, and if it came back before that: the change
		line = words.next(words.lines)
	}
	h.sluice("", "pool", "remove", "openai")
	if rest, status := words.end(); len(rest) != 0 || status != exitFailed {
		t.Errorf("status %d, and %v", status, rest)
	}
	if said := words.next(words.said); !strings.Contains(said, `there is no pool "openai"`) {
		t.Errorf("%q", said)
	}
}

// TestWatchOnTerminal paints the pool over itself, says when the daemon is away, and leaves
// what it has shown last when Ctrl-C ends it.
func TestWatchOnTerminal(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	s := onScreen(t, command(t, []string{"SLUICE_SOCKET=" + h.socket, "TERM=xterm"}, "pool", "status", "openai", "--watch"), 100)
	at := s.until(0, "\x1b[32mhealthy\x1b[0m")
	at = s.until(at, "a2")
	at = s.until(at, "A\x1b[J") // nothing has changed: the clock goes on
	h.sluice("", "pool", "rotate", "openai")
	at = s.until(at, "parked")
	h.daemon.kill()
	at = s.until(at, "going on once it is back")
	h.start()
	at = s.until(at, "A\x1b[Jpool ")
	h.sluice("", "pool", "rotate", "openai")
	at = s.until(at, "a2      \x1b[33mparked")
	if strings.Contains(s.shown()[at:], "going on") {
		t.Error("the daemon is still called away")
	}
	if _, err := s.file.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	if status := s.status(); status != exitDone || !strings.HasSuffix(s.shown(), "\r\n") {
		t.Errorf("status %d: %q", status, s.shown())
	}
}
