package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/reset"
)

// rawProfile is how one kind of agent is reset, as it is written.
type rawProfile struct {
	Argv        []string          `toml:"argv"`
	User        string            `toml:"user"`
	Environment map[string]string `toml:"environment"`
	Timeout     *string           `toml:"timeout"`
	Check       []string          `toml:"check"`
	CheckFiles  []string          `toml:"check_files"`
}

// resetProfiles checks the profiles. An error names the key.
func resetProfiles(raw map[string]rawProfile) (reset.Profiles, error) {
	var own []reset.Profile
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		r := raw[name]
		p := reset.Profile{Name: name, Argv: r.Argv, Environment: r.Environment, Check: r.Check, CheckFiles: r.CheckFiles}
		var err error
		if p.UID, p.GID, err = parseOwner(r.User); err != nil {
			return nil, fmt.Errorf("profile.%s.user: %w", name, err)
		}
		if err := duration("profile."+name+".timeout", r.Timeout, &p.Timeout, time.Second, reset.MaxTimeout); err != nil {
			return nil, err
		}
		own = append(own, p)
	}
	return reset.NewProfiles(own)
}

// parseOwner reads UID[:GID]. Names would be those of this host, not the agent's.
func parseOwner(text string) (uid, gid uint32, err error) {
	if text == "" {
		return 0, 0, errors.New("is missing: the agent's, in numbers, such as \"10000:10000\"")
	}
	first, second, both := strings.Cut(text, ":")
	if !both {
		second = first
	}
	u, errUser := strconv.ParseUint(first, 10, 31)
	g, errGroup := strconv.ParseUint(second, 10, 31)
	if cmp.Or(errUser, errGroup) != nil {
		return 0, 0, fmt.Errorf("%q is not UID or UID:GID in numbers, such as \"10000:10000\"", text)
	}
	return uint32(u), uint32(g), nil
}
