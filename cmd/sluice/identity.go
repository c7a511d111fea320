package main

import (
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

// identity is whom the command of `run` runs as.
type identity struct {
	Keep   bool     `json:"keep"` // stay who sluice is; the rest is empty
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups"`
	Name   string   `json:"name"` // empty for a uid without an account
	Home   string   `json:"home"`
}

// runAs decides whom the command runs as: the user given, else the one who
// called sudo, else whoever runs sluice.
func runAs(given string, getenv func(string) string) (identity, error) {
	if given != "" {
		who, err := lookUp(given)
		if err != nil {
			return identity{}, fmt.Errorf("--user %s: %w", given, err)
		}
		return who, nil
	}
	uid, gid := getenv("SUDO_UID"), getenv("SUDO_GID")
	if uid == "" || uid == "0" {
		return identity{Keep: true}, nil
	}
	if gid != "" {
		uid += ":" + gid
	}
	who, err := lookUp(uid)
	if err != nil {
		return identity{}, fmt.Errorf("SUDO_UID=%s: %w", uid, err)
	}
	return who, nil
}

// lookUp resolves USER[:GROUP], each a name or a number.
func lookUp(given string) (identity, error) {
	name, group, withGroup := strings.Cut(given, ":")
	account, err := lookUpUser(name)
	if err != nil {
		return identity{}, err
	}
	who := identity{Name: account.Username, Home: account.HomeDir}
	if who.UID, err = number(account.Uid); err != nil {
		return identity{}, fmt.Errorf("user %q: %w", name, err)
	}
	if withGroup {
		account.Gid, err = lookUpGroup(group)
	} else if account.Gid == "" {
		err = fmt.Errorf("user %q has no account that says its group: give one, as in --user %s:%s", name, name, name)
	}
	if err != nil {
		return identity{}, err
	}
	if who.GID, err = number(account.Gid); err != nil {
		return identity{}, fmt.Errorf("group %q: %w", group, err)
	}
	who.Groups = []uint32{who.GID}
	if who.Name == "" {
		return who, nil
	}
	further, err := account.GroupIds()
	if err != nil {
		return identity{}, fmt.Errorf("groups of user %q: %s", who.Name, err)
	}
	for _, id := range further {
		if value, err := number(id); err == nil && !slices.Contains(who.Groups, value) {
			who.Groups = append(who.Groups, value)
		}
	}
	return who, nil
}

// lookUpUser finds an account. A number needs none.
func lookUpUser(name string) (*user.User, error) {
	if name == "" {
		return nil, errors.New("the user is missing")
	}
	if account, err := user.Lookup(name); err == nil {
		return account, nil
	}
	if _, err := number(name); err != nil {
		return nil, fmt.Errorf("there is no user %q on this machine", name)
	}
	if account, err := user.LookupId(name); err == nil {
		return account, nil
	}
	return &user.User{Uid: name, HomeDir: "/"}, nil
}

func lookUpGroup(name string) (string, error) {
	if group, err := user.LookupGroup(name); err == nil {
		return group.Gid, nil
	}
	if _, err := number(name); err != nil {
		return "", fmt.Errorf("there is no group %q on this machine", name)
	}
	return name, nil
}

// number reads an id. The greatest one stands for "leave it as it is" in
// setresuid(2), so nobody can have it.
func number(text string) (uint32, error) {
	value, err := strconv.ParseUint(text, 10, 32)
	if err != nil || value == 1<<32-1 {
		return 0, fmt.Errorf("%q is not an id", text)
	}
	return uint32(value), nil
}
