package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	currentName = "audit.jsonl"
	firstDigits = 20
)

// segmentName is the name of a rotated file by the seq of its first event.
func segmentName(first int64) string { return fmt.Sprintf("audit-%0*d.jsonl", firstDigits, first) }

// segmentFirst is what segmentName was given.
func segmentFirst(name string) (int64, bool) {
	digits, prefixed := strings.CutPrefix(name, "audit-")
	digits, suffixed := strings.CutSuffix(digits, ".jsonl")
	first, err := strconv.ParseInt(digits, 10, 64)
	return first, prefixed && suffixed && err == nil && segmentName(first) == name
}

// segments lists the rotated files, oldest first, and whether there is a current one.
func segments(dir string) (rotated []int64, current bool, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, false, fmt.Errorf("audit log: %w", err)
	}
	for _, entry := range entries {
		if first, ok := segmentFirst(entry.Name()); ok {
			rotated = append(rotated, first)
		}
		current = current || entry.Name() == currentName
	}
	slices.Sort(rotated)
	return rotated, current, nil
}

var errLong = errors.New("a line is too long")

// chain is what the next line has to follow.
type chain struct {
	seal *sealer
	prev string // "" if it is not known: the first line may follow anything
	seq  int64
	gen  uint64
}

// next checks a line and says in words what is wrong with it.
func (c *chain) next(line []byte, ended bool) (r record, mac, wrong string) {
	r, mac, ok := c.seal.open(line)
	switch {
	case !ended:
		return r, mac, "it is not finished"
	case !ok:
		return r, mac, "it does not match its mac: it was changed, or written with another key"
	case c.prev != "" && r.Prev != c.prev:
		return r, mac, "it does not follow the line before it: lines are missing here, or were moved"
	case r.Seq < c.seq || r.Seq == c.seq && r.Kind != kindBroken:
		return r, mac, fmt.Sprintf("its seq %d is not above %d", r.Seq, c.seq)
	case r.Head < c.gen:
		return r, mac, "it is older than the line before it"
	}
	c.prev, c.seq, c.gen = mac, r.Seq, r.Head
	return r, mac, ""
}

// lines calls each for every line, without its newline; ended is false for a
// last one that has none. A line longer than any that is written here ends it with
// errLong.
func lines(from io.Reader, each func(line []byte, ended bool) error) error {
	r := bufio.NewReaderSize(from, 64<<10)
	var long []byte
	for {
		part, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			if long = append(long, part...); len(long) > maxLine {
				return errLong
			}
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(long) > 0 {
			part, long = append(long, part...), nil
		}
		if err != nil {
			if len(part) > 0 {
				return each(part, false)
			}
			return nil
		}
		if err := each(part[:len(part)-1], true); err != nil {
			return err
		}
	}
}

// extent is what a scan found: the good lines from the beginning, and what follows.
type extent struct {
	lines int
	size  int64 // of the good lines, in bytes
	first int64 // seq of the first event
	prev  string
	last  string // mac of the last good line
	seq   int64
	gen   uint64
	time  time.Time // of the last good line

	broken string // what is wrong with the line after the good ones; "" is nothing
	good   bool   // a line that holds by itself follows the broken one
	// maxSeq and maxGen are over all lines that hold by themselves.
	maxSeq int64
	maxGen uint64
}

// scan reads one file. each is called for every good line with its number from 1,
// and says in words what else is wrong with it.
func scan(from io.Reader, c *chain, each func(n int, r record, mac string) string) (extent, error) {
	x := extent{last: c.prev, seq: c.seq, gen: c.gen}
	err := lines(from, func(line []byte, ended bool) error {
		length := int64(len(line))
		if ended {
			length++
		}
		if x.broken != "" {
			if r, _, ok := c.seal.open(line); ok {
				x.good = true
				x.maxSeq, x.maxGen = max(x.maxSeq, r.Seq), max(x.maxGen, r.Head)
			}
			return nil
		}
		before := *c
		r, mac, wrong := c.next(line, ended)
		if mac != "" {
			x.maxSeq, x.maxGen = max(x.maxSeq, r.Seq), max(x.maxGen, r.Head)
		}
		if wrong == "" {
			if wrong = each(x.lines+1, r, mac); wrong != "" {
				*c = before
				x.good = true
			}
		}
		if wrong != "" {
			x.broken = wrong
			x.good = x.good || ended && mac != ""
			return nil
		}
		if x.lines == 0 {
			x.prev = r.Prev
		}
		if x.first == 0 && r.Kind != kindBroken {
			x.first = r.Seq
		}
		x.lines, x.size, x.last, x.seq, x.gen, x.time = x.lines+1, x.size+length, mac, r.Seq, r.Head, r.Time
		return nil
	})
	if errors.Is(err, errLong) {
		if x.good = true; x.broken == "" {
			x.broken = "it is longer than any line of the log"
		}
		return x, nil
	}
	return x, err
}
