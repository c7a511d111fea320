package pool

import "strings"

// MaxName is how many bytes the name of a pool or a credential may have.
const MaxName = 64

// ValidName says why name cannot name a pool, a credential or an auth reset
// target, as a [CodeInvalid] error naming the field; nil if it can. These names
// end up in URLs, tables, chats and arguments of commands.
func ValidName(field, name string) error {
	switch {
	case name == "":
		return invalid("%s: must not be empty", field)
	case len(name) > MaxName:
		return invalid("%s: has %d characters, at most %d are allowed", field, len(name), MaxName)
	case name == "." || name == "..": // no path of the API leads there
		return invalid("%s: must not be %q", field, name)
	case name[0] == '-':
		return invalid("%s: %q must not start with '-'", field, name)
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return invalid("%s: %q may only have letters, digits, '.', '_' and '-'", field, name)
		}
	}
	return nil
}

// maxContainer is how many bytes the reference of a container may have.
const maxContainer = 253

// validContainer says why a text cannot name a container: it may become an argument
// of a container runtime's command. A '/' is for the runtimes whose names have parts.
func validContainer(ref string) error {
	switch {
	case len(ref) > maxContainer:
		return invalid("container: has %d characters, at most %d are allowed", len(ref), maxContainer)
	case strings.HasPrefix(ref, "-"):
		return invalid("container: %q must not start with '-'", ref)
	}
	for _, c := range []byte(ref) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("._-/:", c) >= 0:
		default:
			return invalid("container: %q may only have letters, digits, '.', '_', '-', '/' and ':'", ref)
		}
	}
	return nil
}
