package trust

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"unicode"
)

// Untrusting is a process that runs and does not trust the CA, as far as can be known from outside.
type Untrusting struct {
	PID    int
	Name   string // of its program
	Reason string // goes on from the name: "has its roots built in"
	WayOut string // what a person can do
}

// tellBy is the way out where nothing shorter helps.
const tellBy = "what 'sluice ca show' prints"

// maxLooked is how many of an agent's processes are looked at: it makes as many as it likes.
const maxLooked = 1000

// FindUntrusting says which of an agent's processes do not trust ca (PEM), in the order given. It looks each
// time, for they come and go. One that is not listed reads a bundle that has the CA, or is not known to read none.
func FindUntrusting(pids []int, ca []byte) []Untrusting {
	if !hasCertificate(ca) {
		return nil
	}
	views, reader, teller := make(map[string]view), newReader(), newTeller() // views by mount namespace
	var found []Untrusting
	var first *Untrusting // of those that see the host's files and are not known to need them
	for _, pid := range pids[:min(len(pids), maxLooked)] {
		p, err := teller.process(pid)
		if err != nil {
			continue // it has ended
		}
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if err != nil {
			continue
		}
		v, known := views[ns]
		if !known {
			v = viewOf(pid, ca, reader)
			views[ns] = v
		}
		u := Untrusting{PID: pid, Name: printable(p.command())}
		reason, wayOut := v.lacks(p, ca)
		if reader.enough() {
			break // what a further file says is not known
		}
		if reason == "" {
			continue
		}
		u.Reason, u.WayOut = printable(reason), printable(wayOut)
		if v.hosts && !p.speaksTLS() && !ownRoots(p.command()) {
			if first == nil {
				first = &u
			}
			continue
		}
		found = append(found, u)
	}
	if len(found) == 0 && first != nil {
		found = append(found, *first)
	}
	return found
}

// printable is a text for people that names what an agent has named: of a bounded length, and without what
// controls a terminal.
func printable(text string) string {
	const most = 400 // runes
	clean := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text))
	if len(clean) > most {
		return string(clean[:most]) + "..."
	}
	return string(clean)
}

// view is what the processes in one mount namespace see.
type view struct {
	hosts  bool   // the host's own files
	system string // the system's bundle; "": there is none
	holds  bool   // that has the CA
	// covered tells whether there is any cover.
	covered bool
	older   string // what the covers say: the processes that are older than they are
	reader  *reader
}

func viewOf(pid int, ca []byte, r *reader) view {
	v := view{reader: r}
	ns, err := enterable(pid)
	if err == nil {
		_ = ns.Close()
	}
	v.hosts = err != nil
	for _, bundle := range systemBundles {
		if has, err := r.ask(pid, bundle, "bundle", func(text []byte) bool { return holds(text, ca) }); err == nil {
			v.system, v.holds = bundle, has
			break
		}
	}
	if covers, err := covered(pid); err == nil {
		v.covered, v.older = len(covers) > 0, noted(pid, covers)
	}
	return v
}

// ownRoots tells of the programs that read no bundle unless they are told to.
func ownRoots(command string) bool {
	return isNode(command) || command == "deno" || isBrowser(command)
}

func isNode(command string) bool {
	return slices.Contains([]string{"node", "nodejs", "bun", "claude"}, command)
}

func isBrowser(command string) bool {
	return strings.HasPrefix(command, "chrom") || strings.HasPrefix(command, "firefox")
}

// lacks is why a process does not trust the CA, and the way out; "" if it does or is not known not to.
func (v view) lacks(p process, ca []byte) (reason, wayOut string) {
	reads := func(file string) bool { // as it sees it
		has, err := v.reader.ask(p.pid, file, "bundle", func(text []byte) bool { return holds(text, ca) })
		return err == nil && has
	}
	bundle := v.system
	if !v.holds {
		bundle = "" // it is of no use
	}
	again := func(variable, value string) string {
		if value == "" {
			return "start it again with " + variable + " naming a file that holds " + tellBy
		}
		return "start it again with " + variable + "=" + value
	}
	command, home := p.command(), p.javaHome()
	switch {
	case home != "":
		reason, wayOut = v.java(p, home, ca)
	case isNode(command):
		reason, wayOut = v.node(p, reads, again(nodeExtra, bundle))
	case command == "deno":
		told := func(name string) bool { return p.says(name) != "" && reads(p.absolute(p.says(name))) }
		switch {
		case told("DENO_CERT"), told(nodeExtra):
		case strings.Contains(p.says("DENO_TLS_CA_STORE"), "system") && v.holds:
		default:
			reason, wayOut = "has its roots built in", again("DENO_CERT", bundle)
		}
	case isBrowser(command):
		return "has a store of its own", "add " + tellBy + " in its settings"
	default:
		reason, wayOut = v.named(p, reads)
	}
	if reason == "" && v.saw(p.pid) {
		return "began before the CA was added, and may have loaded its certificates", "start it again"
	}
	return reason, wayOut
}

// node is lacks for Node and Bun.
func (v view) node(p process, reads func(string) bool, again string) (reason, wayOut string) {
	options := strings.Fields(p.says("NODE_OPTIONS"))
	for _, given := range append(options, p.argv...) {
		if v.holds && (given == "--use-openssl-ca" || given == "--use-system-ca") {
			return "", ""
		}
	}
	file := p.says(nodeExtra)
	switch {
	case v.holds && p.says("NODE_USE_SYSTEM_CA") == "1": // Node 24.6, 22.19
	case file == "":
		return "has its roots built in", again
	case !reads(p.absolute(file)):
		return "has its roots built in, and " + nodeExtra + " names " + file + ", which does not hold the CA", again
	}
	return "", ""
}

// named is lacks for those that read the system's bundle unless a variable names another one.
func (v view) named(p process, reads func(string) bool) (reason, wayOut string) {
	told := false // of a file that holds the CA
	for _, name := range append([]string{certFile}, replaced...) {
		file := p.says(name)
		switch {
		case file == "":
		case reads(p.absolute(file)):
			told = true
		case p.speaksTLS():
			return "reads " + file + " by " + name + ", which does not hold the CA", "add " + tellBy + " to that file, or start it again without the variable"
		}
	}
	if told {
		return "", ""
	}
	switch {
	case v.holds:
	case v.hosts:
		return "sees the host's own files, which are left alone", "start it through 'sluice run', or give it " + tellBy
	case !p.speaksTLS():
	case v.system != "":
		return "reads " + v.system + ", which the CA could not be added to", "look into the daemon's log, or give it " + tellBy
	case !v.covered:
		return "finds no certificates that the CA could be added to", "start it again with " + certFile + " naming a file that holds " + tellBy
	}
	return "", ""
}

// absolute is a file's path, which may have been given as one below the working directory.
func (p process) absolute(file string) string {
	if file == "" || path.IsAbs(file) {
		return file
	}
	dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.pid))
	if err != nil {
		return file
	}
	return path.Join(dir, file)
}

// saw tells whether a process runs what it ran before there were covers.
func (v view) saw(pid int) bool {
	i, err := imageOf(pid)
	return err == nil && v.older != "" && slices.Contains(strings.Split(v.older, "\n"), i.String())
}

// holds tells whether a bundle has every certificate of ca.
func holds(text, ca []byte) bool {
	if bytes.HasSuffix(text, ca) { // as Merge has added it: whoever lists the targets asks once for each
		return true
	}
	for range absent(text, ca) {
		return false
	}
	return true
}
