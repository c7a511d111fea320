package reset

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

const (
	passwdFile = "/etc/passwd"
	// maxPasswd bounds what is read of it.
	maxPasswd = 1 << 20
	// defaultPath is where programs are looked for if the agent does not say.
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// user is who a command runs as, so far as the agent's passwd file tells.
type user struct{ name, home string }

// userOf looks a user up by id (passwd(5)); the zero value if there is none. A uid
// need not be listed to be run as.
func userOf(passwd []byte, uid uint32) user {
	for line := range strings.Lines(string(passwd)) {
		fields := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		if len(fields) < 7 {
			continue
		}
		if id, err := strconv.ParseUint(fields[2], 10, 32); err == nil && uint32(id) == uid {
			return user{name: fields[0], home: fields[5]}
		}
	}
	return user{}
}

// environment is what the command gets: what the agent was given, then who it runs as,
// then what the profile says. HOME is the user's by passwd; without one there, what
// the agent has for a home, which is all that an image with a bare uid says.
func environment(agent []string, p Profile, who user) []string {
	all := make(map[string]string)
	for _, entry := range agent {
		if name, value, ok := strings.Cut(entry, "="); ok && name != "" {
			all[name] = value
		}
	}
	all["PATH"] = cmp.Or(all["PATH"], defaultPath)
	all["HOME"] = cmp.Or(who.home, all["HOME"], "/")
	all["USER"] = cmp.Or(who.name, strconv.FormatUint(uint64(p.UID), 10))
	all["LOGNAME"] = all["USER"]
	maps.Copy(all, p.Environment)
	list := make([]string, 0, len(all))
	for name, value := range all {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}

// valueOf is a variable's value, "" if it is not set.
func valueOf(environment []string, name string) string {
	for _, entry := range environment {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// namesOf are the variables' names: their values are nobody's business.
func namesOf(environment []string) []string {
	names := make([]string, 0, len(environment))
	for _, entry := range environment {
		name, _, _ := strings.Cut(entry, "=")
		names = append(names, name)
	}
	return names
}

// placed puts the home in the place of "~" and a variable's value in that of its name;
// "" if it is not set.
func placed(file string, environment []string) string {
	first, rest, _ := strings.Cut(file, "/")
	base := "/"
	switch {
	case first == "~":
		base = valueOf(environment, "HOME")
	case strings.HasPrefix(first, "$"):
		base = valueOf(environment, first[1:])
	}
	if base == "" {
		return ""
	}
	return path.Join("/", base, rest)
}
