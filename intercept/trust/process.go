package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// process is what the kernel says of a process that runs.
type process struct {
	pid     int
	exe     string // as it sees it
	argv    []string
	environ []string
	maps    func() ([]byte, error) // its mappings (proc_pid_maps(5)), the first ones of a great many
}

// teller asks the kernel about processes, of which each may have it say a great deal, until it was told enough.
type teller struct{ told, mapped int64 } // bytes that are left

func newTeller() *teller { return &teller{told: maxTold, mapped: maxMapped} }

// read reads one of a process's files, the beginning of a long one, and takes what it has off what is left.
func (t *teller) read(pid int, name string, most int64, left *int64) ([]byte, error) {
	if *left <= 0 {
		return nil, errEnough
	}
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := readAll(f, min(most, *left))
	*left -= int64(len(text))
	return text, err
}

// words are what NULs end, but for what is empty and what is too much.
func words(text []byte) (all []string) {
	for word := range bytes.SplitSeq(text, []byte{0}) {
		if len(word) == 0 {
			continue
		}
		if all = append(all, string(word)); len(all) == maxWords {
			break
		}
	}
	return all
}

// process fails when it has ended, and for a thread of the kernel's.
func (t *teller) process(pid int) (process, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	exe, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return process{}, err
	}
	p := process{pid: pid, exe: strings.TrimSuffix(exe, " (deleted)")}
	p.maps = sync.OnceValues(func() ([]byte, error) { return t.read(pid, "maps", maxMaps, &t.mapped) })
	for _, x := range []struct {
		name string
		into *[]string
	}{{"environ", &p.environ}, {"cmdline", &p.argv}} {
		text, err := t.read(pid, x.name, maxSaid, &t.told)
		if err != nil {
			return process{}, err
		}
		*x.into = words(text)
	}
	return p, nil
}

// called is what it was started as, "" if it does not say.
func (p process) called() string {
	if len(p.argv) == 0 {
		return ""
	}
	return p.argv[0]
}

// command is what people call it.
func (p process) command() string { return path.Base(p.exe) }

func (p process) says(name string) string { return value(p.environ, name) }

// sharing are those of the processes that are in a mount namespace, each once.
func sharing(ns *os.File, pids []int) []int {
	theirs, err := ns.Stat()
	if err != nil {
		return nil
	}
	var in []int
	for _, pid := range pids {
		info, err := os.Stat(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if err == nil && os.SameFile(info, theirs) && !slices.Contains(in, pid) {
			in = append(in, pid)
		}
	}
	return in
}

// Apart are processes in mount namespaces other than that of pid, one in each of the first [MaxApart].
func Apart(pid int, pids []int) []int {
	mnt := func(pid int) string {
		ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)) // "": it has ended
		return ns
	}
	seen := map[string]bool{mnt(pid): true, "": true}
	var others []int
	for _, other := range pids {
		if ns := mnt(other); !seen[ns] {
			seen[ns] = true
			others = append(others, other)
		}
		if len(others) == MaxApart {
			break
		}
	}
	return others
}

// MaxApart is in how many mount namespaces besides its own an agent's processes are told whom to trust: each costs us memory,
// and an agent makes as many as it likes.
const MaxApart = 32

// maxPlaces is how many places of one kind are looked at, and maxPlace how long the name of one may be, in bytes: what names them are agents.
const maxPlaces, maxPlace = 64, 1024

// placesOf are the places that the environments and command lines of processes tell of, and a further environment.
func placesOf(pids []int, environ []string) Places {
	p := Places{Image: true, Homes: []string{"/root"}}
	p.add(places(environ, value(environ, "HOME")))
	teller := newTeller()
	for _, pid := range pids[:min(len(pids), maxLooked)] {
		one, err := teller.process(pid)
		if err != nil {
			continue
		}
		p.add(places(one.environ, one.says("HOME")))
		if home := one.javaHome(); home != "" {
			p.add(Places{JavaHomes: []string{home}, Files: []string{one.absolute(one.javaOption("javax.net.ssl.trustStore"))}})
		}
		if name := one.called(); strings.HasPrefix(path.Base(name), "python") && path.Base(path.Dir(name)) == "bin" {
			p.add(Places{VirtualEnvs: []string{path.Dir(path.Dir(name))}}) // or a prefix, where it is looked already
		}
	}
	return p
}

// places are those that an environment tells of.
func places(environ []string, home string) Places {
	p := Places{
		Homes: []string{home}, JavaHomes: []string{value(environ, "JAVA_HOME")},
		VirtualEnvs: []string{value(environ, "VIRTUAL_ENV"), value(environ, "CONDA_PREFIX")},
	}
	for _, dir := range filepath.SplitList(value(environ, "PATH")) { // an image's environment is often entered by that alone
		if path.Base(dir) == "bin" && !slices.Contains([]string{"/bin", "/usr/bin", "/usr/local/bin"}, dir) {
			p.VirtualEnvs = append(p.VirtualEnvs, path.Dir(dir))
		}
	}
	for _, name := range append([]string{nodeExtra, certFile}, replaced...) {
		p.Files = append(p.Files, value(environ, name))
	}
	var kept Places
	kept.add(p)
	return kept
}

// add takes over what is a path, each once.
func (p *Places) add(o Places) {
	for _, x := range []struct {
		into *[]string
		from []string
	}{{&p.Homes, o.Homes}, {&p.VirtualEnvs, o.VirtualEnvs}, {&p.JavaHomes, o.JavaHomes}, {&p.Files, o.Files}} {
		for _, name := range x.from {
			if path.IsAbs(name) && len(name) <= maxPlace && !slices.Contains(*x.into, name) && len(*x.into) < maxPlaces {
				*x.into = append(*x.into, name)
			}
		}
	}
}

// image tells an execution of a program by a process apart from every other one, but for the same
// program executed again.
type image struct {
	pid    int
	start  string // in ticks after the boot (proc_pid_stat(5))
	device uint64
	inode  uint64
}

func imageOf(pid int) (image, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return image{}, err
	}
	_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ") // a name may have anything in it
	fields := strings.Fields(rest)
	const starttime = 22 - 3 // counted from the state, which is the third field
	if len(fields) <= starttime {
		return image{}, fmt.Errorf("process %d: a short stat", pid)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "exe"), &st); err != nil {
		return image{}, err
	}
	return image{pid: pid, start: fields[starttime], device: st.Dev, inode: st.Ino}, nil
}

func (i image) String() string { return fmt.Sprintf("%d %s %d %d", i.pid, i.start, i.device, i.inode) }

// images are written one a line, into an extended attribute.
type images []image

// maxImages fits what an extended attribute may hold: 64 KiB (XATTR_SIZE_MAX).
const maxImages = 800

func (all images) String() string {
	var lines []string
	for _, i := range all[:min(len(all), maxImages)] {
		lines = append(lines, i.String())
	}
	return strings.Join(lines, "\n")
}

// capable are those processes that may have loaded certificates: they have mapped a library for TLS,
// or are large enough to have one built in.
func capable(pids []int) images {
	var all images
	teller := newTeller()
	for _, pid := range pids[:min(len(pids), maxLooked)] {
		if p, err := teller.process(pid); err != nil || !p.speaksTLS() {
			continue
		}
		if i, err := imageOf(pid); err == nil {
			all = append(all, i)
		}
	}
	return all
}

// tlsLibraries are what programs map that speak TLS with one of their system's.
var tlsLibraries = []string{"libssl", "libgnutls", "libnss3", "libmbedtls", "libwolfssl"}

// interpreters are large without speaking TLS themselves, and map a library for it.
var interpreters = []string{"python", "perl", "ruby", "php"}

// builtIn is from what size on a program may have TLS built in, in bytes: Go's smallest client has 5 MiB.
const builtIn = 4 << 20

func (p process) speaksTLS() bool {
	name := p.command()
	if slices.ContainsFunc([]string{"runc", "crun", "memfd:runc", "youki"}, func(r string) bool { return strings.HasPrefix(name, r) }) {
		return false // it makes a container, and is about to become the container's command
	}
	dir := filepath.Join("/proc", strconv.Itoa(p.pid))
	is := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
	if info, err := os.Stat(filepath.Join(dir, "exe")); err == nil && info.Size() >= builtIn && !slices.ContainsFunc(interpreters, is) {
		return true
	}
	if p.javaHome() != "" { // a small program, which loads a large library
		return true
	}
	maps, err := p.maps()
	return err == nil && slices.ContainsFunc(tlsLibraries, func(l string) bool { return bytes.Contains(maps, []byte("/"+l)) })
}

// noted is what covers in a process's namespace say of the processes that are older.
func noted(pid int, covers []laid) string {
	for _, c := range covers {
		f, err := openInside(pid, c.at)
		if err != nil {
			continue
		}
		buf := make([]byte, 64<<10)
		n, err := unix.Fgetxattr(int(f.Fd()), olderAttribute, buf)
		_ = f.Close()
		if err == nil {
			return string(buf[:n])
		}
	}
	return ""
}

// openInside opens a regular file as a process sees it; links lead nowhere out of its root.
func openInside(pid int, name string) (*os.File, error) {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := unix.Openat2(root, strings.TrimLeft(name, "/"), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("no regular file")
	}
	return openLooked(fd)
}

// openLooked opens for reading what was opened by O_PATH and is a regular file. Who holds a lease on it (fcntl(2)) would have
// us wait: for that too there is O_NONBLOCK.
func openLooked(fd int) (*os.File, error) {
	return os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDONLY|unix.O_NONBLOCK, 0)
}

// readAll reads what is in a file, up to a length.
func readAll(f *os.File, most int64) ([]byte, error) { return io.ReadAll(io.LimitReader(f, most)) }
