package trust

import (
	"errors"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// What is searched and read belongs to an agent, and others wait for the end of it: all that an agent could make much of is counted.
const (
	maxNames   = 10_000   // names of files that are looked at in one mount namespace; an image has some hundred
	maxMatches = 500      // of the paths that bundles are known by
	maxAll     = 16 << 20 // bytes of all bundles in one that are covered
	maxMaps    = 1 << 20  // bytes of what the kernel says of one process's mappings
	maxSaid    = 1 << 20  // bytes of one process's environment, and of its command line
	maxTold    = 16 << 20 // bytes of all of the latter in one look at processes; a usual one has some KiB
	maxMapped  = 64 << 20 // bytes of all mappings in one; a usual process's have some 30 KiB
	maxWords   = 4096     // of one process's environment, and of its command line
)

// search looks for files.
type search struct {
	names   int                 // that may still be looked at
	matches int                 // that may still be found
	known   map[string][]string // what directories have
}

func newSearch(names, matches int) *search {
	return &search{names: names, matches: matches, known: make(map[string][]string)}
}

// cut tells whether there may be more than was found.
func (s *search) cut() bool { return s.names < 0 || s.matches < 0 }

// glob is filepath.Glob for an absolute pattern. It ends when there are no names left, with what it has.
func (s *search) glob(pattern string) []string {
	at := []string{"/"}
	for component := range strings.SplitSeq(strings.Trim(path.Clean(pattern), "/"), "/") {
		var next []string
		name, one := literal(component)
		for _, dir := range at {
			if one {
				next = append(next, path.Join(dir, name))
				continue
			}
			for _, name := range s.list(dir) {
				if ok, err := path.Match(component, name); err == nil && ok {
					next = append(next, path.Join(dir, name))
				}
			}
		}
		at = next
	}
	return slices.DeleteFunc(at, func(name string) bool {
		if s.names--; s.names < 0 {
			return true
		}
		_, err := os.Lstat(name)
		return err != nil
	})
}

// list is what a directory has, sorted; nothing, if it is none.
func (s *search) list(dir string) []string {
	if names, ok := s.known[dir]; ok {
		return names
	}
	if s.names--; s.names < 0 {
		return nil
	}
	f, err := os.OpenFile(dir, unix.O_DIRECTORY, 0)
	if err != nil {
		s.known[dir] = nil
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(s.names + 1) // one that goes meanwhile has none
	s.names -= len(names)
	slices.Sort(names)
	s.known[dir] = names
	return names
}

// literal is the one name that a component of a pattern matches; false if it may match others.
func literal(component string) (string, bool) {
	var name strings.Builder
	for i := 0; i < len(component); i++ {
		switch component[i] {
		case '*', '?', '[':
			return "", false
		case '\\':
			if i++; i == len(component) {
				return "", false
			}
		}
		name.WriteByte(component[i])
	}
	return name.String(), true
}

// fileID tells a file, as it is now, from all others.
type fileID struct {
	device, inode uint64
	changed       unix.Timespec
}

// reader reads the files that processes name, each of them once.
type reader struct {
	left int64 // bytes that may still be read
	said map[question]bool
}

type question struct {
	file fileID
	kind string
}

// errEnough says that more is named than is read.
var errEnough = errors.New("too much is named to be read")

func newReader() *reader { return &reader{left: 4 * maxAll, said: make(map[question]bool)} }

// ask puts a question of a kind to what is in a file, as a process sees it.
func (r *reader) ask(pid int, name, kind string, ask func(text []byte) bool) (answer bool, err error) {
	f, err := openInside(pid, name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, err
	}
	q := question{fileID{st.Dev, st.Ino, st.Ctim}, kind}
	if answer, known := r.said[q]; known {
		return answer, nil
	}
	if r.left <= 0 {
		return false, errEnough
	}
	text, err := readAll(f, maxBundle)
	if err != nil {
		return false, err
	}
	r.left -= int64(len(text))
	r.said[q] = ask(text)
	return r.said[q], nil
}

// enough tells whether an answer was not given for want of bytes.
func (r *reader) enough() bool { return r.left <= 0 }
