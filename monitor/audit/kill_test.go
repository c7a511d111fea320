package audit

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// recovered starts a log on what a kill left, delivers again what the reader's
// cursor says was not acknowledged, and wants every event once.
func (p place) recovered(t testing.TB, what string, from, to int64, change func(*Options)) Stats {
	t.Helper()
	if _, err := Verify(p.dir, p.key); err != nil {
		t.Fatalf("%s: what a kill leaves counts as damage: %v", what, err)
	}
	l := p.open(t, change)
	deliver(t, l, events(from, to))
	if s := l.Stats(); s.Broken != 0 || s.Skipped != 0 {
		t.Fatalf("%s: %+v", what, s)
	}
	_ = l.Close()
	p.holds(t, to)
	return l.Stats()
}

// A kill at every step of a batch: after each byte of the lines, with the old head,
// with a head that is staged in part or whole, and with the new one.
func TestKillAtEveryByte(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	l := p.open(t, nil)
	deliver(t, l, events(1, 3))
	before := read(t, p.dir)
	deliver(t, l, events(4, 6))
	_ = l.Close()
	after := read(t, p.dir)
	was, is := before[currentName], after[currentName]
	for i := len(was); i <= len(is); i++ {
		before.with(currentName, is[:i]).write(t, p.dir)
		s := p.recovered(t, fmt.Sprintf("%d bytes", i-len(was)), 4, 7, nil)
		whole := strings.Count(is[len(was):i], "\n")
		if int(s.AdoptedLines) != whole || int(s.Lines) != 4-whole {
			t.Fatalf("%d bytes: %+v, want %d adopted", i-len(was), s, whole)
		}
		if torn := i - 1 - strings.LastIndexByte(is[:i], '\n'); int(s.TornBytes) != torn {
			t.Fatalf("%d bytes: %+v, want %d torn", i-len(was), s, torn)
		}
	}
	for i := range len(after[headName]) + 1 {
		before.with(currentName, is).with(headName+".new", after[headName][:i]).write(t, p.dir)
		p.recovered(t, fmt.Sprintf("head staged to %d", i), 4, 7, nil)
	}
	after.write(t, p.dir)
	p.recovered(t, "new head", 4, 7, nil)
	// The power went, and what the file was made longer by never came to the disk.
	for i := len(was) + 1; i <= len(is); i++ {
		before.with(currentName, was+strings.Repeat("\x00", i-len(was))).write(t, p.dir)
		p.recovered(t, "zeros", 4, 7, nil)
	}
}

// A kill at every step of a rotation that drops a file, too.
func TestKillInRotation(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	small := func(o *Options) { o.MaxSize, o.Keep = 1000, 1 }
	l := p.open(t, small)
	var before, after tree
	var last int64
	for seq := int64(1); ; seq++ {
		before = read(t, p.dir)
		deliver(t, l, events(seq, seq))
		after, last = read(t, p.dir), seq
		if len(before) == 3 && after[currentName] != "" && len(after[currentName]) < len(before[currentName]) {
			break
		}
	}
	_ = l.Close()
	rotated, _, err := segments(p.dir)
	if err != nil || len(rotated) != 1 {
		t.Fatalf("%v, %v", rotated, err)
	}
	renamed := before.with(segmentName(rotated[0]), before[currentName]).without(currentName)
	steps := []tree{renamed, renamed.with(currentName, "")}
	line := after[currentName]
	for i := range len(line) + 1 {
		steps = append(steps, renamed.with(currentName, line[:i]))
	}
	published := renamed.with(currentName, line).with(headName, after[headName])
	steps = append(steps, published, after)
	for i, step := range steps {
		step.write(t, p.dir)
		if _, err := Verify(p.dir, p.key); err != nil {
			t.Fatalf("step %d: what a kill leaves counts as damage: %v", i, err)
		}
		l := p.open(t, small)
		deliver(t, l, events(last, last+1))
		_ = l.Close()
		r, err := Verify(p.dir, p.key)
		if err != nil || l.Stats().Broken != 0 || r.LastSeq != last+1 || int64(r.Lines) != r.LastSeq-r.FirstSeq+1 || r.Files != 2 {
			t.Fatalf("step %d: %+v, %+v, %v", i, r, l.Stats(), err)
		}
		if all := read(t, p.dir); len(all) != 3 {
			t.Fatalf("step %d: files %v", i, keys(all))
		}
	}
}

const writerEnv = "SLUICE_AUDIT_WRITER"

// write is the child of TestKill: it delivers batches until it is killed, and
// says what it was acknowledged.
func write(state string) {
	dir, rest, _ := strings.Cut(state, "\n")
	key, from, _ := strings.Cut(rest, "\n")
	seq, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		panic(err)
	}
	l, err := Open(Options{Dir: dir, KeyFile: key, MaxSize: 2000, Keep: -1})
	if err != nil {
		panic(err)
	}
	if s := l.Stats(); s.Broken > 0 {
		panic("damage")
	}
	for ; ; seq += 3 {
		if err := l.Deliver(context.Background(), events(seq, seq+2)); err != nil {
			panic(err)
		}
		fmt.Println(seq + 2)
	}
}

// A process is really killed, and another goes on from its cursor, many times.
func TestKill(t *testing.T) {
	t.Parallel()
	state := t.TempDir() // a real disk
	p := place{dir: filepath.Join(state, "audit"), key: filepath.Join(state, "audit.key")}
	acknowledged := int64(0)
	for round := range 15 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerEnv+"="+fmt.Sprintf("%s\n%s\n%d", p.dir, p.key, acknowledged+1))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		scanner := bufio.NewScanner(out)
		for n := 0; scanner.Scan(); n++ {
			if acknowledged, err = strconv.ParseInt(scanner.Text(), 10, 64); err != nil {
				t.Errorf("the writer says %q", scanner.Text())
			}
			if n == round {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait() // killed
		if t.Failed() {
			return
		}
		r, err := Verify(p.dir, p.key)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if r.LastSeq < acknowledged || r.LastSeq > acknowledged+3 || int64(r.Lines) != r.LastSeq {
			t.Fatalf("round %d: %+v, acknowledged %d", round, r, acknowledged)
		}
	}
	p.recovered(t, "at the end", acknowledged+1, acknowledged+3, func(o *Options) { o.Keep = -1 })
}

// Verify sees a log that holds at any moment of its being written.
func TestVerifyWhileWritten(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	l := p.open(t, func(o *Options) { o.MaxSize, o.Keep = 1500, 2 })
	done := make(chan struct{})
	go func() {
		defer close(done)
		for seq := int64(1); seq <= 400; seq += 2 {
			if err := l.Deliver(context.Background(), events(seq, seq+1)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	seen := []int64{0}
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		r, err := Verify(p.dir, p.key)
		if err != nil {
			t.Fatalf("%v", err)
		}
		seen = append(seen, r.LastSeq)
	}
	if !slices.IsSorted(seen) || seen[len(seen)-1] != 400 {
		t.Errorf("seen: %v", seen)
	}
}
