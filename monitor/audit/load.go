package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// damage is what a kill cannot have done.
type damage struct {
	file   string // in the log's folder
	line   int
	reason string
	aside  bool // the current file is not gone on with
}

// found is what the disk has, before anything is changed.
type found struct {
	head     head
	headData []byte // nil: there is none
	headOK   bool
	rotated  []int64
	current  bool
	// before is what the current file has to follow.
	before chain
	x      extent // of the current file
	size   int64
	// done says that the head ends with the last rotated file: all lines of the
	// current one are beyond it.
	done bool
	// maxSeq and maxGen are the highest that were seen anywhere.
	maxSeq int64
	maxGen uint64
	damage *damage
}

// load looks at the disk, mends what a kill left, and opens the current file.
func (l *Log) load() error {
	f, err := l.look()
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if f.damage != nil {
		err = l.restart(f)
	} else {
		err = l.resume(f)
	}
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}

func (l *Log) look() (f found, err error) {
	if f.headData, err = os.ReadFile(l.path(headName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if f.rotated, f.current, err = segments(l.opts.Dir); err != nil {
		return f, err
	}
	f.before = chain{seal: l.seal, prev: noMAC}
	if h, err := l.seal.openHead(f.headData); err == nil {
		f.head, f.headOK = h, true
		f.before.prev = h.FirstPrev
		f.rotated = slices.DeleteFunc(f.rotated, func(first int64) bool { return first < h.FirstFile })
	} else if f.headData == nil {
		f.damage = &damage{file: headName, line: 1, reason: "it is missing"}
	} else {
		f.damage = &damage{file: headName, line: 1, reason: err.Error()}
	}
	if err := l.lookRotated(&f); err != nil {
		return f, err
	}
	if err := l.lookCurrent(&f); err != nil {
		return f, err
	}
	f.maxSeq = max(f.maxSeq, f.head.Seq, f.x.maxSeq)
	f.maxGen = max(f.maxGen, f.head.Gen, f.x.maxGen)
	return f, nil
}

// lookRotated finds what the current file follows. A rotated file is read whole
// only if the head ends in it: the kill came between a rotation and the next head.
func (l *Log) lookRotated(f *found) error {
	if len(f.rotated) == 0 {
		if !f.headOK {
			f.before.prev = ""
		}
		return nil
	}
	name := segmentName(f.rotated[len(f.rotated)-1])
	r, mac, ok, err := l.lastLine(name)
	if err != nil {
		return err
	}
	f.before.prev = ""
	if ok {
		f.before.prev, f.before.seq, f.before.gen = mac, r.Seq, r.Head
		f.maxSeq, f.maxGen = r.Seq, r.Head
	}
	if at := slices.Index(f.rotated, f.head.File); !f.headOK || at < 0 {
		return nil
	} else if at < len(f.rotated)-1 {
		f.damage = &damage{file: headName, line: 1, reason: "it is older than " + name + ": it was put back"}
		f.headOK = false
		return nil
	}
	f.done = true
	x, err := l.scanFile(name, &chain{seal: l.seal}, func(int, record, string) string { return "" })
	if err != nil {
		return err
	}
	switch {
	case x.broken != "":
		f.damage = &damage{file: name, line: x.lines + 1, reason: x.broken}
	case x.lines > f.head.Lines: // a rotation comes after a head that knows all
		f.damage, f.headOK, f.done = &damage{file: headName, line: 1, reason: older(name, f.head.Lines+1)}, false, false
	case x.lines < f.head.Lines || x.last != f.head.Last:
		f.damage = &damage{file: name, line: x.lines + 1, reason: missing(f.head, x.lines)}
	}
	return nil
}

// missing says that a file ends too early.
func missing(h head, lines int) string {
	if lines >= h.Lines {
		return "this is not the end that the head knows"
	}
	return fmt.Sprintf("it is missing: lines of this file that the head knows: %d", h.Lines)
}

func (l *Log) lookCurrent(f *found) error {
	if !f.current {
		if f.headOK && !f.done && f.head.Lines > 0 {
			f.damage = &damage{file: currentName, line: 1, reason: missing(f.head, 0)}
		}
		return nil
	}
	info, err := os.Stat(l.path(currentName))
	if err != nil {
		return err
	}
	f.size = info.Size()
	later := 0
	before := f.before
	f.x, err = l.scanFile(currentName, &before, func(n int, r record, mac string) string {
		if !f.headOK {
			return ""
		}
		return f.head.knows(n, r, mac, f.done, &later)
	})
	if err != nil {
		return err
	}
	known := 0
	if f.headOK && !f.done {
		known = f.head.Lines
	}
	switch {
	case f.x.lines < known && f.x.broken == "":
		f.damage = &damage{file: currentName, line: f.x.lines + 1, reason: missing(f.head, f.x.lines), aside: true}
	case f.x.broken != "" && (f.x.lines < known || f.x.good || !f.headOK):
		f.damage = &damage{file: currentName, line: f.x.lines + 1, reason: f.x.broken, aside: true}
	case later > 0:
		f.damage = &damage{file: headName, line: 1, reason: older(currentName, later)}
		f.headOK = false
	}
	if f.damage != nil && f.x.broken != "" {
		f.damage.aside = true // nothing can be put after what is not a line
	}
	return nil
}

// knows holds line n of the head's last file, or of the one after it, against the
// head. later becomes the first line that was written under a later head.
func (h head) knows(n int, r record, mac string, after bool, later *int) string {
	switch {
	case (after || n > h.Lines) && r.Head != h.Gen && *later == 0:
		*later = n
	case !after && n == h.Lines && mac != h.Last:
		return "this is not the end that the head knows"
	}
	return ""
}

func older(file string, line int) string {
	return fmt.Sprintf("it is older than line %d of %s: it was put back", line, file)
}

// resume goes on with a log that is whole but for what a kill left.
func (l *Log) resume(f found) error {
	l.head, l.rotated = f.head, f.rotated
	l.tail = tail{lines: f.x.lines, size: f.x.size, first: f.x.first, last: f.x.last, seq: max(f.x.seq, f.head.Seq), time: f.x.time}
	if !f.current {
		l.tail.last, l.tail.seq = f.head.Last, f.head.Seq
		return l.create()
	}
	if err := l.openCurrent(); err != nil {
		return err
	}
	if torn := f.size - f.x.size; torn > 0 {
		if err := errors.Join(l.file.Truncate(f.x.size), l.file.Sync()); err != nil {
			return err
		}
		l.stats.TornBytes += uint64(torn)
		l.opts.Log.Warn("audit log: a line was not finished, and is cut off", "bytes", torn, "line", f.x.lines+1)
	}
	adopted := f.x.lines
	if !f.done {
		adopted -= f.head.Lines
	}
	if adopted > 0 {
		if _, err := l.publish(l.tail); err != nil {
			return err
		}
		l.stats.AdoptedLines += uint64(adopted)
		l.opts.Log.Info("audit log: lines beyond the head are adopted", "lines", adopted)
	}
	l.expire()
	return nil
}

// restart goes on after damage, with a line that says so. What is broken is kept
// under another name, and the chain goes on from what is before it.
func (l *Log) restart(f found) error {
	d := f.damage
	l.opts.Log.Error("audit log: damaged, and begun anew", "file", d.file, "line", d.line, "reason", d.reason)
	l.place(f)
	marker := record{
		Seq: f.maxSeq, Time: instant(l.opts.Now()), Kind: kindBroken, Target: d.file, Reason: d.reason, BrokenLine: d.line,
	}
	if f.headData != nil && !f.headOK {
		// Named by its content: one that is tried again on a full disk is kept once.
		sum := sha256.Sum256(f.headData)
		kept := "broken-" + hex.EncodeToString(sum[:8]) + ".head"
		if err := os.Link(l.path(headName), l.path(kept)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if d.file == headName {
			marker.Target = kept
		}
	}
	if f.current && !d.aside {
		if err := l.openCurrent(); err != nil {
			return err
		}
		if err := l.append([]record{marker}); err != nil {
			return err
		}
		l.stats.Broken++
		return nil
	}
	aside := ""
	if d.aside {
		stamp := "broken-" + l.opts.Now().UTC().Format("20060102T150405.000000000Z")
		aside = stamp + ".jsonl"
		for n := 2; ; n++ { // the clock may have been set back to this very moment
			if _, err := os.Lstat(l.path(aside)); errors.Is(err, fs.ErrNotExist) {
				break
			} else if err != nil {
				return err
			}
			aside = fmt.Sprintf("%s-%d.jsonl", stamp, n)
		}
		if marker.Target == currentName {
			marker.Target = aside
		}
	}
	return l.begin(marker, aside)
}

// place says where the log goes on after damage.
func (l *Log) place(f found) {
	l.head, l.rotated = f.head, f.rotated
	l.head.Gen = f.maxGen
	l.tail = tail{lines: f.x.lines, size: f.x.size, first: f.x.first, last: f.x.last}
	if !f.current || f.damage.aside {
		l.tail = tail{last: f.before.prev}
	}
	if l.tail.last == "" {
		l.tail.last = f.x.prev
	}
	if l.tail.last == "" {
		l.tail.last = noMAC
	}
	l.tail.seq = f.maxSeq
	if f.headOK {
		return
	}
	l.head = head{Gen: f.maxGen, FirstPrev: l.tail.last}
	if len(f.rotated) > 0 {
		l.head.FirstFile, l.head.FirstPrev = f.rotated[0], l.firstPrev(f.rotated[0])
	} else if f.current && !f.damage.aside && f.x.prev != "" {
		l.head.FirstPrev = f.x.prev
	}
}

// begin begins the current file with a line of the log's own. All that needs room
// on the disk is done before the first name is changed, so that a full one leaves
// everything where it was.
func (l *Log) begin(marker record, aside string) error {
	var line bytes.Buffer
	marker.Head, marker.Prev = l.head.Gen, l.tail.last
	mac, err := l.seal.seal(&line, marker)
	if err != nil {
		return err
	}
	after := tail{lines: 1, size: int64(line.Len()), last: mac, seq: marker.Seq}
	h, kept := l.next(after)
	data, err := l.seal.sealHead(h)
	if err != nil {
		return err
	}
	if err := errors.Join(stage(l.path(currentName), line.Bytes()), stage(l.path(headName), data)); err != nil {
		return err
	}
	if aside != "" {
		if err := os.Rename(l.path(currentName), l.path(aside)); err != nil {
			return err
		}
	}
	for _, name := range []string{currentName, headName} {
		if err := os.Rename(staged(l.path(name)), l.path(name)); err != nil {
			return err
		}
	}
	if err := syncDir(l.opts.Dir); err != nil {
		return err
	}
	l.head, l.tail, l.rotated = h, after, kept
	l.stats.Broken++
	l.stats.Lines++
	return l.openCurrent()
}

func (l *Log) openCurrent() error {
	f, err := os.OpenFile(l.path(currentName), os.O_WRONLY|os.O_APPEND, 0)
	l.file = f
	return err
}

func (l *Log) path(name string) string { return filepath.Join(l.opts.Dir, name) }

func (l *Log) scanFile(name string, c *chain, each func(int, record, string) string) (extent, error) {
	f, err := os.Open(l.path(name))
	if err != nil {
		return extent{}, err
	}
	defer f.Close()
	return scan(f, c, each)
}

// lastLine is a file's last line, if it holds by itself.
func (l *Log) lastLine(name string) (r record, mac string, ok bool, err error) {
	f, err := os.Open(l.path(name))
	if err != nil {
		return r, "", false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return r, "", false, err
	}
	from := max(0, info.Size()-maxLine)
	err = lines(io.NewSectionReader(f, from, info.Size()-from), func(line []byte, ended bool) error {
		if r, mac, ok = l.seal.open(line); !ended {
			ok = false
		}
		return nil
	})
	if errors.Is(err, errLong) {
		return r, "", false, nil
	}
	return r, mac, ok, err
}

// firstPrev is the mac that the first line of a file follows. If that cannot be
// told, noMAC: Verify then names that line.
func (l *Log) firstPrev(first int64) string {
	prev := noMAC
	f, err := os.Open(l.path(segmentName(first)))
	if err != nil {
		return prev
	}
	defer f.Close()
	_ = lines(f, func(line []byte, _ bool) error {
		if r, _, ok := l.seal.open(line); ok {
			prev = r.Prev
		}
		return io.EOF
	})
	return prev
}
