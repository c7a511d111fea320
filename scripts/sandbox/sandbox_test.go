package sandbox

import (
	"errors"
	"os"
	"os/exec"
	"testing"
)

func TestTailHearsAWordInPieces(t *testing.T) {
	t.Parallel()
	tail := NewTail("listening", false)
	for _, piece := range []string{"starting\nlis", "tening on "} {
		select {
		case <-tail.Heard():
			t.Fatalf("heard before %q", piece)
		default:
		}
		if _, err := tail.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-tail.Heard():
	default:
		t.Error("not heard")
	}
	if got, want := tail.Text(), "    starting\n    listening on"; got != want {
		t.Errorf("text %q, not %q", got, want)
	}
}

func TestStopEndsAProcess(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "1000")
	p, err := Start("sleep", cmd, cmd.Start)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("stopped again: %v", err)
	}
	var exit *exec.ExitError
	if !errors.As(p.Err(), &exit) {
		t.Errorf("ended with %v", p.Err())
	}
}

func TestStartSaysWhatFailed(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("/nonexistent/command")
	if _, err := Start("the command", cmd, cmd.Start); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error: %v", err)
	}
}
