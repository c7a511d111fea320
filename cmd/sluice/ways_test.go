package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// ways is the project's list of ways round the redirect. Each is tried by at least one subtest that is called case_NUMBER_ and
// what it tries; numbers that are missing were taken together with the one before. What was found later has a name alone.
func ways() map[int]string {
	return map[int]string{
		1: "v4", 2: "v6", 3: "v4-mapped", 4: "IPV6_V6ONLY", 5: "no IPv6 in the namespace", 6: "bound to a v4 source", 7: "bound to a v6 source",
		8: "SO_BINDTODEVICE", 9: "IP_UNICAST_IF", 10: "IP_TRANSPARENT and IP_FREEBIND", 11: "non-blocking, connected twice",
		12: "TCP Fast Open", 13: "AF_UNSPEC and again", 14: "MPTCP", 15: "SCTP, UDP-Lite, raw", 16: "AF_PACKET", 17: "AF_VSOCK and AF_XDP",
		19: "QUIC", 20: "a socket older than the attach", 21: "a connection older than the attach", 22: "a socket from outside",
		24: "a namespace of its own", 25: "setns back and forth", 27: "many connections", 29: "straight to the listener",
		31: "the daemon is killed", 32: "the daemon is killed, fail open", 33: "the daemon is stopped", 34: "the cgroup is made again",
		35: "attached twice, nested, below an exclusive program", 36: "root and sluice's own cgroup", 38: "child cgroups, leaving as root",
		39: "io_uring", 40: "programs without libc", 41: "vfork and clone3", 42: "getpeername", 43: "odd ClientHellos", 44: "a server that speaks first",
		46: "bad upstream certificates", 47: "the map is full", 48: "loopback is down", 49: "hybrid and pure cgroup v2", 50: "DNS",
		51: "a sidecar", 52: "the CA in odd containers",
	}
}

// testFiles are the sources of all tests, by path from the root.
func testFiles(t *testing.T) map[string]string {
	t.Helper()
	root := filepath.Join("..", "..")
	found := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "node_modules" || strings.HasPrefix(entry.Name(), ".") && path != root) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		rel, _ := filepath.Rel(root, path)
		found[rel] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestEveryWayRoundIsTried looks for a test of each case of the list, and for cases that the list does not have.
func TestEveryWayRoundIsTried(t *testing.T) {
	t.Parallel()
	// A subtest's name is a string that begins so: a key of a table, or what t.Run is given.
	name := regexp.MustCompile(`"case_(\d\d)_[a-z0-9_]+"(?:,|:)`)
	tried := make(map[int][]string)
	for file, text := range testFiles(t) {
		for _, m := range name.FindAllStringSubmatch(text, -1) {
			n, _ := strconv.Atoi(m[1])
			tried[n] = append(tried[n], file)
		}
	}
	all := ways()
	for n, what := range all {
		if len(tried[n]) == 0 {
			t.Errorf("no test tries case %d, %s", n, what)
		}
	}
	for n, files := range tried {
		if all[n] == "" {
			slices.Sort(files)
			t.Errorf("case %d of %s is not in the list", n, strings.Join(slices.Compact(files), ", "))
		}
	}
}
