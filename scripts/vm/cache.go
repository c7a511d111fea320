package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"time"
)

// kept is how many entries of each kind stay, those that were used last.
const kept = 4

// cache is a directory outside of the tree: images and kernels by the hash of what they are made of, downloaded
// packages, and which runs have passed. Removing it, whole or in part, costs time and nothing else.
type cache struct{ dir string }

func openCache() (cache, error) {
	base := os.Getenv("XDG_CACHE_HOME")
	if base == "" {
		base = "/var/cache"
	}
	c := cache{filepath.Join(base, "sluice-vm")}
	// The key that opens the guests is in it.
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return c, fmt.Errorf("cache: %w (XDG_CACHE_HOME says where it is)", err)
	}
	return c, nil
}

// entry is the directory of a kind and key, made by build in another place if it is not there. Of two processes that want
// the same, one builds.
func (c cache) entry(ctx context.Context, kind, key string, build func(ctx context.Context, dir string) error) (string, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	final := filepath.Join(c.dir, kind, key)
	now := time.Now()
	if err := os.Chtimes(final, now, now); err == nil {
		return final, c.prune(kind)
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o700); err != nil {
		return "", err
	}
	aside := final + ".new"
	if err := os.RemoveAll(aside); err != nil { // one that was killed
		return "", err
	}
	if err := build(ctx, aside); err != nil {
		return "", errors.Join(fmt.Errorf("%s: %w", kind, err), os.RemoveAll(aside))
	}
	if err := os.Rename(aside, final); err != nil {
		return "", err
	}
	return final, c.prune(kind)
}

// prune removes all but those that were used last.
func (c cache) prune(kind string) error {
	entries, err := os.ReadDir(filepath.Join(c.dir, kind))
	if err != nil {
		return err
	}
	used := make(map[string]time.Time)
	for _, e := range entries {
		if info, gone := e.Info(); gone == nil {
			used[e.Name()] = info.ModTime()
		}
	}
	names := slices.SortedFunc(maps.Keys(used), func(a, b string) int { return used[b].Compare(used[a]) })
	for _, name := range names[min(kept, len(names)):] {
		err = errors.Join(err, os.RemoveAll(filepath.Join(c.dir, kind, name)))
	}
	return err
}

// lock waits for the cache to be nobody else's.
func (c cache) lock(ctx context.Context) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(c.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for said := false; ; {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
		}
		if !said {
			fmt.Printf("vm: waiting for another one to be done with %s\n", c.dir)
			said = true
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), file.Close())
		case <-time.After(time.Second):
		}
	}
}

func (c cache) stamp(what string) string { return filepath.Join(c.dir, "passed", what) }

// passed is when a run passed with these inputs; zero if the last one that passed had others, or none did.
func (c cache) passed(what, key string) time.Time {
	text, err := os.ReadFile(c.stamp(what))
	if err != nil || strings.TrimSpace(string(text)) != key {
		return time.Time{}
	}
	info, err := os.Stat(c.stamp(what))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// pass notes that a run passed with these inputs.
func (c cache) pass(what, key string) error {
	if err := os.MkdirAll(filepath.Dir(c.stamp(what)), 0o700); err != nil {
		return err
	}
	return os.WriteFile(c.stamp(what), []byte(key+"\n"), 0o600)
}

// digest is a hash over the names and contents of the files below some paths that git would commit.
func digest(paths ...string) (string, error) {
	// git (2.39) takes the directory that all paths are in off what is excluded as well, and then excludes
	// anything, unless that comes first.
	var excluded, wanted []string
	for _, p := range paths {
		if strings.HasPrefix(p, ":(exclude") {
			excluded = append(excluded, p)
		} else {
			wanted = append(wanted, p)
		}
	}
	args := append([]string{"-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"}, append(excluded, wanted...)...)
	out, err := exec.Command("git", args...).Output()
	if err != nil {
		return "", fmt.Errorf("git ls-files: %w", err)
	}
	names := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	sort.Strings(names)
	sum := sha256.New()
	for _, name := range names {
		body, err := os.ReadFile(name)
		switch {
		case errors.Is(err, os.ErrNotExist): // deleted, and not committed yet
			continue
		case err != nil:
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n", name, len(body))
		sum.Write(body)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
