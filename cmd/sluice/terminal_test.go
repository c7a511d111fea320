package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// command prepares sluice, called with an environment that is empty but for what it is given.
func command(t *testing.T, environment []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sluice")
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	t.Cleanup(cancel)
	// Under nohup, say, the tests are deaf for a signal, and what they start would be.
	cmd := exec.CommandContext(ctx, "env", append([]string{"--default-signal", path}, args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), quickExit}, environment...)
	return cmd
}

// screen is a terminal that a command runs on, and keeps all that it shows.
type screen struct {
	t     *testing.T
	cmd   *exec.Cmd
	file  *os.File
	ended chan struct{}

	mu   sync.Mutex
	text []byte
}

// onScreen starts a command on a terminal of that many columns.
func onScreen(t *testing.T, cmd *exec.Cmd, columns uint16) *screen {
	t.Helper()
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: columns})
	if err != nil {
		t.Fatal(err)
	}
	return watchScreen(t, cmd, file)
}

// watchScreen keeps what comes on a terminal that a command has.
func watchScreen(t *testing.T, cmd *exec.Cmd, file *os.File) *screen {
	t.Helper()
	s := &screen{t: t, cmd: cmd, file: file, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		piece := make([]byte, 4096)
		for {
			n, err := file.Read(piece)
			s.mu.Lock()
			s.text = append(s.text, piece[:n]...)
			s.mu.Unlock()
			if err != nil { // EIO, when nobody has the other end any more
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-s.ended
		_ = file.Close()
	})
	return s
}

func (s *screen) shown() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.text)
}

// until waits for words to come after what had been shown when the mark was made, and makes
// the next mark.
func (s *screen) until(mark int, words string) int {
	s.t.Helper()
	for deadline := time.Now().Add(commandLimit); ; time.Sleep(10 * time.Millisecond) {
		text := s.shown()
		if i := strings.Index(text[mark:], words); i >= 0 {
			return mark + i + len(words)
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("no %q comes after %q", words, text[mark:min(len(text), mark+2000)])
		}
	}
}

// status waits for the end of the command.
func (s *screen) status() int {
	s.t.Helper()
	<-s.ended
	var failed *exec.ExitError
	if err := s.cmd.Wait(); err != nil && !errors.As(err, &failed) {
		s.t.Fatal(err)
	}
	if status, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		s.t.Fatalf("ended by %s: %s", status.Signal(), s.shown())
	}
	return s.cmd.ProcessState.ExitCode()
}

// States have colours where a person looks at them or where that is asked for, and never in
// JSON.
func TestColour(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		terminal    bool
		environment []string
		args        []string
		coloured    bool
	}{
		"terminal":              {terminal: true, environment: []string{"TERM=xterm"}, coloured: true},
		"terminal, NO_COLOR":    {terminal: true, environment: []string{"TERM=xterm", "NO_COLOR=1"}},
		"terminal, empty word":  {terminal: true, environment: []string{"TERM=xterm", "NO_COLOR="}, coloured: true},
		"dumb terminal":         {terminal: true, environment: []string{"TERM=dumb"}},
		"terminal, not wanted":  {terminal: true, environment: []string{"TERM=xterm"}, args: []string{"--color=never"}},
		"terminal, JSON":        {terminal: true, environment: []string{"TERM=xterm"}, args: []string{"-o", "json"}},
		"pipe":                  {environment: []string{"TERM=xterm"}},
		"pipe, wanted":          {environment: []string{"TERM=dumb", "NO_COLOR=1"}, args: []string{"--color", "always"}, coloured: true},
		"pipe, JSON and wanted": {args: []string{"-o", "json", "--color=always"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := command(t, append(c.environment, "SLUICE_SOCKET="+filepath.Join(dir, "s")), append([]string{"doctor", "--state-dir", dir}, c.args...)...)
			var text string
			if c.terminal {
				s := onScreen(t, cmd, 200)
				s.status()
				text = s.shown()
			} else {
				var out bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, io.Discard
				_ = cmd.Run() // 1 where this host lacks something
				text = out.String()
			}
			if !strings.Contains(text, "unprivileged bpf") || strings.Contains(text, "\x1b[") != c.coloured {
				t.Errorf("%q", text)
			}
		})
	}
}
