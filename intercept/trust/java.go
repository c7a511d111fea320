package trust

import (
	"path"
	"strings"
)

// javaHome is the directory of the release of Java that a process runs, "" if it runs none: that of its launcher, or
// of the virtual machine that a launcher of another name has loaded.
func (p process) javaHome() string {
	if p.command() == "java" {
		return path.Dir(path.Dir(p.exe))
	}
	maps, err := p.maps()
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(maps)) {
		if machine := strings.TrimSpace(line); strings.HasSuffix(machine, "/libjvm.so") {
			file := machine[strings.Index(machine, "/"):]
			if lib := strings.LastIndex(file, "/lib/"); lib >= 0 { // lib/server, and lib/amd64/server up to Java 8
				return file[:lib]
			}
		}
	}
	return ""
}

// javaOption is a system property that a process was given, "" if it was not.
func (p process) javaOption(name string) string {
	given := p.argv
	for _, variable := range []string{"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"} {
		given = append(strings.Fields(p.says(variable)), given...)
	}
	found := ""
	for _, option := range given {
		// Java's tools pass on to it what they get after -J.
		if v, ok := strings.CutPrefix(strings.TrimPrefix(option, "-J"), "-D"+name+"="); ok {
			found = v // the last one counts
		}
	}
	return found
}

// java is lacks for Java.
func (v view) java(p process, home string, ca []byte) (reason, wayOut string) {
	stores := []string{p.javaOption("javax.net.ssl.trustStore")}
	if stores[0] == "" {
		stores = stores[:0]
		for _, name := range homeKeyStores {
			stores = append(stores, path.Join(home, name))
		}
	}
	for _, store := range stores {
		has, err := v.reader.ask(p.pid, p.absolute(store), "store", func(text []byte) bool { return len(missing(text, ca)) == 0 })
		switch {
		case err != nil: // the next one counts
		case has:
			return "", ""
		default:
			return "reads the key store " + store + ", which does not hold the CA", "import " + tellBy + " into it, with keytool, and start it again"
		}
	}
	return "finds no key store that the CA could be added to", "start it again with -Djavax.net.ssl.trustStore naming one that holds " + tellBy
}
