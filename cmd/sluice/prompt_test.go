package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// sentToDaemon is what the daemon of these tests says when it has been sent a secret.
const sentToDaemon = "it has been taken"

// asked starts a command on a terminal whose other end stays open, so that it can be looked at when the command has
// ended, and waits until it asks. There is a daemon, which takes secrets and does not store them.
func asked(t *testing.T, args ...string) (*screen, int) {
	t.Helper()
	d := newDouble(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusConflict)
			fmt.Fprintf(w, `{"error": {"code": "conflict", "message": %q}}`, sentToDaemon)
			return
		}
		fmt.Fprint(w, "[]")
	})
	s, tty := onTerminal(t, d.socket, args...)
	s.until(0, "(not shown): ")
	return s, tty
}

func onTerminal(t *testing.T, socket string, args ...string) (*screen, int) {
	t.Helper()
	file, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(t, []string{"SLUICE_SOCKET=" + socket}, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := watchScreen(t, cmd, file)
	t.Cleanup(func() { _ = tty.Close() })
	return s, int(tty.Fd())
}

// typed is what somebody types or pastes.
func (s *screen) typed(text string) {
	s.t.Helper()
	if _, err := s.file.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// ending waits for the end of the command while its terminal is open.
func (s *screen) ending() syscall.WaitStatus {
	_ = s.cmd.Wait()
	return s.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// usable fails if a terminal does not show what is typed, or has something left for a shell.
func usable(t *testing.T, tty int) {
	t.Helper()
	mode, err := unix.IoctlGetTermios(tty, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if mode.Lflag&unix.ECHO == 0 {
		t.Error("the terminal shows no more what is typed")
	}
	if left, err := unix.IoctlGetInt(tty, unix.TIOCINQ); err != nil || left != 0 {
		t.Errorf("%d bytes are left for the shell (%v)", left, err)
	}
}

// Whatever ends a command that asks for a secret, the terminal is as it was, and the shell did not stop at nothing: it is told
// which signal it was.
func TestPromptThatIsEnded(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"cred", "add", "work"}, {"cred", "add", "work", "--type", "oauth"}} {
		s, tty := asked(t, args...)
		s.typed("half of it\x03")
		if end := s.ending(); !end.Signaled() || end.Signal() != syscall.SIGINT {
			t.Errorf("%v: Ctrl-C: %v", args, end)
		}
		usable(t, tty)
		for _, by := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP} {
			s, tty := asked(t, args...)
			if err := s.cmd.Process.Signal(by); err != nil {
				t.Fatal(err)
			}
			if end := s.ending(); !end.Signaled() || end.Signal() != by {
				t.Errorf("%v: %v: %v", args, by, end)
			}
			usable(t, tty)
		}
	}
}

func TestPrompt(t *testing.T) {
	t.Parallel()
	const account = `{"access_token": "canary-a", "refresh_token": "canary-r", "expires_at": "2030-01-02T03:04:05Z"}`
	oauth := []string{"--type", "oauth"}
	for name, tc := range map[string]struct {
		args        []string
		typed, says string
	}{
		"a key":                          {nil, "canary-key\n", sentToDaemon},
		"two keys":                       {nil, "canary-key\ncanary-other\n", sentToDaemon},
		"nothing":                        {nil, "\n", "is empty"},
		"an end":                         {nil, "\x04", "is empty"},
		"a line that is cut off":         {nil, strings.Repeat("canary-", 700) + "\n", "pipe it in"},
		"an account":                     {oauth, account + "\n", sentToDaemon},
		"an account in lines":            {oauth, strings.ReplaceAll(account, " ", "\n\n  ") + "\n", sentToDaemon},
		"an account and a command":       {oauth, account + "\necho canary\n", sentToDaemon},
		"an account that has no end":     {oauth, account[:len(account)-1] + "\n\x04", "not a JSON object"},
		"an account with a long line":    {oauth, strings.Replace(account, "canary-a", strings.Repeat("canary-", 700), 1) + "\n", "pipe it in"},
		"no account":                     {oauth, "canary-key\n", "not a JSON object"},
		"no account, in several lines":   {oauth, "{\n  canary\n}\n", "not a JSON object"},
		"nothing in place of an account": {oauth, "\n", "is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, tty := asked(t, append([]string{"cred", "add", "work"}, tc.args...)...)
			s.typed(tc.typed)
			if end := s.ending(); end.ExitStatus() != exitFailed {
				t.Errorf("%v", end)
			}
			s.until(0, tc.says)
			if text := s.shown(); strings.Contains(text, "canary") {
				t.Errorf("it shows the secret: %q", text)
			}
			usable(t, tty)
		})
	}
}

// Who would type a secret in vain is not asked for it.
func TestNoPromptWithoutADaemon(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"cred", "add", "work"}, {"cred", "add", "work", "--type", "oauth"}, {"cred", "update", "work"}} {
		s, tty := onTerminal(t, filepath.Join(t.TempDir(), "s"), args...)
		if end := s.ending(); end.ExitStatus() != exitFailed {
			t.Errorf("%v: %v", args, end)
		}
		s.until(0, "no daemon answers")
		if text := s.shown(); strings.Contains(text, "not shown") {
			t.Errorf("%v asks: %q", args, text)
		}
		usable(t, tty)
	}
}
