package sandbox

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
)

// Tail keeps the end of what a process says, and notices a word.
type Tail struct {
	word  string
	heard chan struct{}
	show  bool

	mu   sync.Mutex
	once sync.Once
	kept []byte
}

// NewTail makes one. word "" is none; show copies everything to standard error.
func NewTail(word string, show bool) *Tail {
	return &Tail{word: word, heard: make(chan struct{}), show: show}
}

// Heard is closed once the word was said.
func (t *Tail) Heard() <-chan struct{} { return t.heard }

// Write implements io.Writer.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kept = append(t.kept, p...); len(t.kept) > 64<<10 {
		t.kept = append([]byte(nil), t.kept[len(t.kept)-32<<10:]...)
	}
	if t.word != "" && bytes.Contains(t.kept, []byte(t.word)) {
		t.once.Do(func() { close(t.heard) })
	}
	if t.show {
		_, _ = io.Copy(os.Stderr, bytes.NewReader(p)) // a closed terminal does not end the program
	}
	return len(p), nil
}

// Text is the last lines, indented.
func (t *Tail) Text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.kept)), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-20):], "\n    ")
}
