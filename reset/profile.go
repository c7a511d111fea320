package reset

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

const (
	// DefaultProfile is the profile of a pool that names none.
	DefaultProfile = "hermes"
	// DefaultTimeout is how long a command may run.
	DefaultTimeout = 30 * time.Second
	// MaxTimeout is the longest time-out that a profile may have.
	MaxTimeout = 10 * time.Minute

	// targetMark stands for the auth reset target in a profile's arguments.
	targetMark = "{target}"
	// maxArguments and maxArgument bound a profile's commands.
	maxArguments, maxArgument = 64, 4096
)

// Profile is how one kind of agent is reset. It is data: adding an agent takes no code.
type Profile struct {
	Name string
	// Argv is the command; {target} in an argument stands for the auth reset target.
	Argv []string
	// UID and GID are those the command runs as, in the agent's user namespace.
	UID, GID uint32
	// Environment is added to the agent's own and wins over it.
	Environment map[string]string
	// Timeout is how long each command may run. Default: [DefaultTimeout].
	Timeout time.Duration
	// Check, if there is one, is a command that ends with status 0 if the reset had an
	// effect. It is run like Argv.
	Check []string
	// CheckFiles are files in the format of hermes' auth.json, of which none may hold an
	// entry of the auth reset target for "exhausted" afterwards; one that is not there
	// holds nothing. "~/" is the user's home and "$NAME/" what a variable says; if it
	// is not set, there is no such file.
	CheckFiles []string
}

// hermes runs as the user of its image: as root it would leave a file that the agent
// cannot write. It is checked because releases before September 2026 print success and
// change nothing.
var hermes = Profile{
	Name: DefaultProfile, Argv: []string{"hermes", "auth", "reset", targetMark}, UID: 10000, GID: 10000,
	CheckFiles: []string{"~/.hermes/auth.json", "$HERMES_HOME/auth.json"},
}

// Profiles are those that a pool may name besides the built-in one, by their names.
type Profiles map[string]Profile

// NewProfiles checks profiles and adds them to the built-in ones, in whose place
// they may be. An error names the key of the configuration.
func NewProfiles(own []Profile) (Profiles, error) {
	if len(own) == 0 {
		return nil, nil
	}
	p := make(Profiles)
	for _, profile := range own {
		if err := profile.validate(); err != nil {
			return nil, fmt.Errorf("profile.%s: %w", profile.Name, err)
		}
		if _, twice := p[profile.Name]; twice {
			return nil, fmt.Errorf("profile.%s: is there twice", profile.Name)
		}
		p[profile.Name] = profile
	}
	return p, nil
}

// Find is the profile of a name; "" is [DefaultProfile]. Errors are *[pool.Error].
func (p Profiles) Find(name string) (Profile, error) {
	name = cmp.Or(name, DefaultProfile)
	found, ok := p[name]
	if !ok && name == DefaultProfile {
		found, ok = hermes, true
	}
	if !ok {
		return Profile{}, &pool.Error{Code: pool.CodeInvalid, Message: fmt.Sprintf(
			"agent_profile: there is no profile %q: the configuration can define it as [profile.%s]; there are %s",
			name, name, strings.Join(p.names(), ", "))}
	}
	found.Timeout = cmp.Or(found.Timeout, DefaultTimeout)
	return found, nil
}

func (p Profiles) names() []string {
	names := slices.Collect(maps.Keys(p))
	if _, ok := p[DefaultProfile]; !ok {
		names = append(names, DefaultProfile)
	}
	slices.Sort(names)
	return names
}

func (p Profile) validate() error {
	if err := pool.ValidName("name", p.Name); err != nil {
		return err
	}
	if len(p.Argv) == 0 {
		return fmt.Errorf("argv: the command is missing, such as [\"agent\", \"auth\", \"reset\", %q]", targetMark)
	}
	for key, argv := range map[string][]string{"argv": p.Argv, "check": p.Check} {
		if err := validArgv(argv); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	for name, value := range p.Environment {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return fmt.Errorf("environment: %q cannot be the name of a variable, or its value has a NUL", name)
		}
	}
	if p.Timeout < 0 || p.Timeout > MaxTimeout {
		return fmt.Errorf("timeout: %s is not from 0s to %s", p.Timeout, pool.Span(MaxTimeout))
	}
	for _, f := range p.CheckFiles {
		if f == "" || !strings.ContainsAny(f[:1], "/~$") || !strings.Contains(f, "/") || strings.Contains(f, "\x00") {
			return fmt.Errorf("check_files: %q does not begin with /, ~/ or $NAME/", f)
		}
	}
	return nil
}

func validArgv(argv []string) error {
	if len(argv) > maxArguments {
		return fmt.Errorf("has %d arguments, at most %d are allowed", len(argv), maxArguments)
	}
	for i, arg := range argv {
		switch {
		case i == 0 && (arg == "" || strings.Contains(arg, targetMark)):
			return fmt.Errorf("the first is the program, it must not be empty or have %s in it", targetMark)
		case len(arg) > maxArgument:
			return fmt.Errorf("an argument has %d bytes, at most %d are allowed", len(arg), maxArgument)
		case strings.Contains(arg, "\x00"):
			return fmt.Errorf("%q has a NUL in it", arg)
		}
	}
	return nil
}

// fill puts the auth reset target in its place. There is no shell in between: an
// argument stays one argument, whatever is in it.
func fill(argv []string, target string) []string {
	filled := make([]string, len(argv))
	for i, arg := range argv {
		filled[i] = strings.ReplaceAll(arg, targetMark, target)
	}
	return filled
}
