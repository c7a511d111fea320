package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/control/api"
)

// longestLine is what a terminal keeps of a line, in bytes. It loses the rest without a word (termios(3), canonical mode).
const longestLine = 4095

// askSecret reads a line from a terminal that does not show it, or of an account as many as its JSON takes. The echo is
// off before it asks: who pastes at once is not shown either. What was pasted behind the secret is let go, as
// getpass(3) does, lest the shell takes it for commands.
func (c *cli) askSecret(terminal int, kind api.CredentialType) ([]byte, error) {
	before, err := unix.IoctlGetTermios(terminal, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	silent := *before
	silent.Lflag = silent.Lflag&^unix.ECHO | unix.ICANON | unix.ISIG
	silent.Iflag |= unix.ICRNL
	var changing sync.Mutex // a signal that comes too soon waits for the silence that it is to undo
	changing.Lock()
	asked := unlessEnded(func() {
		changing.Lock()
		defer changing.Unlock()
		_ = unix.IoctlSetTermios(terminal, unix.TCSETSF, before)
		fmt.Fprintln(c.stderr)
	})
	defer asked()
	err = unix.IoctlSetTermios(terminal, unix.TCSETSF, &silent)
	changing.Unlock()
	if err != nil {
		return nil, err
	}
	question := "Secret (not shown): "
	if kind == api.Oauth {
		question = "Account, a JSON object (not shown): "
	}
	fmt.Fprint(c.stderr, question)
	var all []byte
	for piece := make([]byte, longestLine+1); ; {
		n, err := unix.Read(terminal, piece)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		case n > longestLine:
			return nil, fmt.Errorf("a terminal takes lines of up to %d bytes, and this one may be longer: pipe it in from a file", longestLine)
		}
		all = append(all, piece[:n]...)
		switch {
		case n == 0: // Ctrl-D
			return all, nil
		case piece[n-1] != '\n': // Ctrl-D behind something: whoever means the end says it twice
		case kind != api.Oauth || len(all) > maxSecret || !unfinished(all):
			return all, nil
		}
	}
}

// unfinished says whether a text may be the beginning of a JSON object.
func unfinished(text []byte) bool {
	if text = bytes.TrimSpace(text); len(text) == 0 || text[0] != '{' {
		return false
	}
	return errors.Is(json.NewDecoder(bytes.NewReader(text)).Decode(new(json.RawMessage)), io.ErrUnexpectedEOF)
}
