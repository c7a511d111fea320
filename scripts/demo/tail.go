package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
)

// tail keeps the end of what a process says, and notices a word.
type tail struct {
	word  string        // "" = none
	heard chan struct{} // closed once the word was said
	show  bool          // on standard error too

	mu   sync.Mutex
	once sync.Once
	kept []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kept = append(t.kept, p...); len(t.kept) > 64<<10 {
		t.kept = append([]byte(nil), t.kept[len(t.kept)-32<<10:]...)
	}
	if t.word != "" && bytes.Contains(t.kept, []byte(t.word)) {
		t.once.Do(func() { close(t.heard) })
	}
	if t.show {
		_, _ = io.Copy(os.Stderr, bytes.NewReader(p)) // a closed terminal does not end the demo
	}
	return len(p), nil
}

// text is the last lines, indented.
func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.kept)), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-20):], "\n    ")
}
