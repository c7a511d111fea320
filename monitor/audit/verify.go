package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Report is what a log that holds is made of.
type Report struct {
	Lines int `json:"lines"`
	Files int `json:"files"`
	// The first and last line's; zero if there is none. A gap between seqs is not
	// damage: the chain is over what was recorded.
	FirstSeq  int64     `json:"first_seq"`
	LastSeq   int64     `json:"last_seq"`
	FirstTime time.Time `json:"first_time,omitzero"`
	LastTime  time.Time `json:"last_time,omitzero"`
	// Unfinished is how many bytes follow the last whole line: what a kill, or a
	// write that is going on, leaves.
	Unfinished int64 `json:"unfinished_bytes"`
	// Dropped says that older files were removed because more than Keep were there.
	Dropped bool `json:"dropped"`
}

// BrokenError is the first place where a log does not hold.
type BrokenError struct {
	File   string
	Line   int // from 1
	Reason string
}

func (e *BrokenError) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Reason) }

// ErrNoLog is returned by [Verify] where no log was ever begun.
var ErrNoLog = errors.New("there is no audit log")

// snapshotTries bounds how often Verify begins anew because the log was written
// to meanwhile: each try takes less than a write with its three fsyncs.
const snapshotTries = 100

// Verify checks a whole log, also while it is being written to. It changes nothing.
// Errors: [*BrokenError], with the report of what holds before that place; [ErrNoLog], or one
// of the disk or the key.
func Verify(dir, keyFile string) (Report, error) {
	begun, err := anyOf(dir, keyFile)
	if err != nil {
		return Report{}, fmt.Errorf("audit log: %w", err)
	}
	if !begun {
		return Report{}, fmt.Errorf("%s: %w", dir, ErrNoLog)
	}
	key, err := readKey(keyFile)
	if err != nil {
		return Report{}, err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return Report{}, &BrokenError{File: dir, Line: 1, Reason: "the whole log is missing: there is only its key"}
	}
	for range snapshotTries {
		s, same, err := takeSnapshot(dir)
		if err != nil {
			return Report{}, fmt.Errorf("audit log: %w", err)
		}
		if !same {
			s.close()
			continue
		}
		report, err := s.verify(newSealer(key))
		s.close()
		return report, err
	}
	return Report{}, fmt.Errorf("audit log %s: it is written to all the time; try again", dir)
}

// anyOf says whether one of the paths is there.
func anyOf(paths ...string) (bool, error) {
	for _, path := range paths {
		if _, err := os.Lstat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err == nil, err
		}
	}
	return false, nil
}

// VerifyFile is [Verify] for one file by itself, such as one that was copied elsewhere.
// That lines are missing before its first or after its last cannot be seen.
func VerifyFile(file, keyFile string) (Report, error) {
	key, err := readKey(keyFile)
	if err != nil {
		return Report{}, err
	}
	f, err := os.Open(file)
	if err != nil {
		return Report{}, fmt.Errorf("audit log: %w", err)
	}
	defer f.Close()
	w := walk{chain: chain{seal: newSealer(key)}}
	x, err := w.file(f, filepath.Dir(file), filepath.Base(file), nil)
	if err != nil {
		return w.report, err
	}
	if x.broken != "" {
		return w.report, &BrokenError{File: file, Line: x.lines + 1, Reason: x.broken}
	}
	return w.report, nil
}

// snapshot is the log at one moment: files that are open, with their sizes then.
// What happens to their names later does not matter.
type snapshot struct {
	dir     string
	head    []byte
	rotated []int64
	files   []snapshotFile
}

type snapshotFile struct {
	*os.File
	name  string
	first int64 // 0: the current file
	size  int64
}

// takeSnapshot opens everything between two looks at the head: if these are the
// same, nothing but lines of one batch can have come.
func takeSnapshot(dir string) (s *snapshot, same bool, err error) {
	s = &snapshot{dir: dir}
	if s.head, err = readHead(dir); err != nil {
		return s, false, err
	}
	rotated, current, err := segments(dir)
	if err != nil {
		return s, false, err
	}
	s.rotated = rotated
	open := func(name string, first int64) error {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			return errors.Join(err, f.Close())
		}
		s.files = append(s.files, snapshotFile{File: f, name: name, first: first, size: info.Size()})
		return nil
	}
	for _, first := range rotated {
		err = errors.Join(err, open(segmentName(first), first))
	}
	if current {
		err = errors.Join(err, open(currentName, 0))
	}
	again, headErr := readHead(dir)
	rotatedAgain, currentAgain, listErr := segments(dir)
	if headErr != nil || listErr != nil {
		s.close()
		return s, false, errors.Join(headErr, listErr)
	}
	same = bytes.Equal(s.head, again) && slices.Equal(rotated, rotatedAgain) && current == currentAgain
	if same && err != nil {
		s.close()
		return s, false, err
	}
	return s, same && err == nil, nil
}

// readHead gives nil if there is none.
func readHead(dir string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(dir, headName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func (s *snapshot) close() {
	for _, f := range s.files {
		_ = f.Close() // only read
	}
	s.files = nil
}

// walk goes through the files of a log.
type walk struct {
	chain  chain
	report Report
}

// file reads one file; each adds to what a line is held to.
func (w *walk) file(from io.Reader, dir, name string, each func(n int, r record, mac string) string) (extent, error) {
	var broken *BrokenError
	x, err := scan(from, &w.chain, func(n int, r record, mac string) string {
		if each != nil {
			if wrong := each(n, r, mac); wrong != "" {
				return wrong
			}
		}
		if r.Kind == kindBroken {
			broken = &BrokenError{
				File: filepath.Join(dir, r.Target), Line: r.BrokenLine,
				Reason: fmt.Sprintf("%s (found by sluice at %s, which went on at line %d of %s)",
					r.Reason, r.Time.Format(time.RFC3339), n, name),
			}
			return broken.Reason
		}
		if first, ok := segmentFirst(name); ok && n == 1 && first != r.Seq {
			return fmt.Sprintf("the file's name says that it begins with seq %d, not %d", first, r.Seq)
		}
		if w.report.Lines == 0 {
			w.report.FirstSeq, w.report.FirstTime = r.Seq, r.Time
		}
		w.report.Lines++
		w.report.LastSeq, w.report.LastTime = r.Seq, r.Time
		return ""
	})
	if err != nil {
		return x, fmt.Errorf("audit log %s: %w", filepath.Join(dir, name), err)
	}
	if broken != nil {
		return x, broken
	}
	w.report.Files++
	return x, nil
}

// verify holds the files against each other and against the head.
func (s *snapshot) verify(seal *sealer) (Report, error) {
	w := walk{chain: chain{seal: seal}}
	h, headErr := seal.openHead(s.head)
	if s.head == nil {
		headErr = errors.New("it is missing")
	}
	last := currentName // of the file with the head's last line
	if headErr == nil {
		w.chain.prev, w.report.Dropped = h.FirstPrev, h.FirstFile != 0
		if slices.Contains(s.rotated, h.File) {
			last = segmentName(h.File)
		}
	}
	later, laterFile := 0, ""
	passed, lastLines := headErr == nil && h.Lines == 0, 0
	for _, f := range s.files {
		if headErr == nil && f.first != 0 && f.first < h.FirstFile {
			continue // dropped by the head already, and about to be removed
		}
		if headErr == nil && h.FirstFile != 0 && w.report.Files == 0 && f.first != h.FirstFile {
			return w.report, s.broken(segmentName(h.FirstFile), 1, "the file is missing")
		}
		here := f.name == last
		x, err := w.file(io.NewSectionReader(f, 0, f.size), s.dir, f.name, func(n int, r record, mac string) string {
			if headErr != nil || !here && !passed {
				return ""
			}
			before := later
			wrong := h.knows(n, r, mac, !here, &later)
			if here && f.first != 0 && n > h.Lines && later == 0 {
				later = n // a rotation comes after a head that knows all
			}
			if before != later {
				laterFile = f.name
			}
			return wrong
		})
		if err != nil {
			return w.report, err
		}
		if here {
			passed, lastLines = passed || x.lines >= h.Lines, x.lines
		}
		switch {
		case x.broken == "":
		case passed && !x.good && f.name == currentName:
			w.report.Unfinished = f.size - x.size
		default:
			return w.report, s.broken(f.name, x.lines+1, x.broken)
		}
	}
	switch {
	case headErr != nil:
		return w.report, s.broken(headName, 1, headErr.Error())
	case !passed:
		return w.report, s.broken(last, lastLines+1, missing(h, lastLines))
	case later > 0:
		return w.report, s.broken(headName, 1, older(laterFile, later))
	}
	return w.report, nil
}

func (s *snapshot) broken(name string, line int, reason string) *BrokenError {
	return &BrokenError{File: filepath.Join(s.dir, name), Line: line, Reason: reason}
}
