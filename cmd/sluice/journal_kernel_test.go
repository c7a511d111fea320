package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// journald is the socket of the journal's and what has come there.
type journald struct {
	t    *testing.T
	conn *net.UnixConn
	done chan struct{}

	mu      sync.Mutex
	entries []map[string]string
	raw     bytes.Buffer
}

func newJournald(t *testing.T, socket string) *journald {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	j := &journald{t: t, conn: conn, done: make(chan struct{})}
	go j.listen()
	t.Cleanup(j.close)
	return j
}

func (j *journald) close() {
	_ = j.conn.Close()
	<-j.done
}

func (j *journald) listen() {
	defer close(j.done)
	for buf := make([]byte, 1<<20); ; {
		n, err := j.conn.Read(buf)
		if err != nil {
			return
		}
		entry, err := parseEntry(buf[:n])
		if err != nil {
			j.t.Errorf("the journal was sent %q: %v", buf[:n], err)
		}
		j.mu.Lock()
		j.entries = append(j.entries, entry)
		j.raw.Write(buf[:n])
		j.mu.Unlock()
	}
}

// parseEntry reads a datagram of the journal's native protocol: NAME=VALUE lines, or NAME, a length and so many bytes.
func parseEntry(data []byte) (map[string]string, error) {
	entry := make(map[string]string)
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte("\n"))
		if !ended {
			return nil, fmt.Errorf("%q ends in no line", line)
		}
		if name, value, ok := bytes.Cut(line, []byte("=")); ok {
			entry[string(name)] = string(value)
			data = rest
			continue
		}
		if len(rest) < 8 {
			return nil, fmt.Errorf("%s has no length", line)
		}
		n := binary.LittleEndian.Uint64(rest)
		if rest = rest[8:]; uint64(len(rest)) < n+1 || rest[n] != '\n' {
			return nil, fmt.Errorf("%s is shorter than %d", line, n)
		}
		entry[string(line)], data = string(rest[:n]), rest[n+1:]
	}
	return entry, nil
}

// entry waits for one that has all the fields.
func (j *journald) entry(fields map[string]string) map[string]string {
	j.t.Helper()
	for deadline := time.Now().Add(startLimit); ; time.Sleep(10 * time.Millisecond) {
		j.mu.Lock()
		entries := j.entries
		j.mu.Unlock()
	next:
		for _, e := range entries {
			for name, value := range fields {
				if e[name] != value {
					continue next
				}
			}
			return e
		}
		if time.Now().After(deadline) {
			j.t.Fatalf("no entry with %q in %q", fields, entries)
		}
	}
}

// TestJournal has the journal read a daemon's standard error: its records arrive as entries with fields, none with a secret; when
// the journal's socket is gone they are in standard error, and when it is back, in the journal again.
func TestJournal(t *testing.T) {
	needs(t, "unshare", "stat", "curl")
	h := newHouse(t, nil)
	h.daemon.kill()
	dir := filepath.Join(h.dir, "journal")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "socket")
	j := newJournald(t, socket)
	const inside = `mkdir -p /run/systemd && mount -t tmpfs none /run/systemd && mkdir /run/systemd/journal && mount --bind "$0" /run/systemd/journal
		export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) && exec "$@"`
	if err := h.daemon.spawn(h.dir, filepath.Join(h.dir, "config.toml"), filepath.Join(h.dir, "state"), h.socket,
		"unshare", "--mount", "--propagation", "private", "sh", "-c", inside, dir); err != nil {
		t.Fatal(err)
	}
	listening := j.entry(map[string]string{"MSG": "listening", "SOCKET": h.socket, "LEVEL": "INFO", "PRIORITY": "6", "SYSLOG_IDENTIFIER": "sluice"})
	if !strings.HasPrefix(listening["MESSAGE"], "listening socket="+h.socket+" ") {
		t.Errorf("the message is %q", listening["MESSAGE"])
	}
	if err := h.sim.Spend("first", time.Minute); err != nil {
		t.Fatal(err)
	}
	if got := h.chat("-d", chatBody); !strings.Contains(got, "\n200 ") {
		t.Fatal(got)
	}
	notice := j.entry(map[string]string{"KIND": "cred_failover", "POOL": "openai", "MEMBER": "a1"})
	if !strings.HasPrefix(notice["MSG"], `Pool "openai" failed over from "a1" to "a2"`) {
		t.Errorf("the notice is %q", notice["MSG"])
	}
	j.entry(map[string]string{"MSG": "member is out", "POOL": "openai", "MEMBER": "a1"})
	if said := h.daemon.log.String(); said != "" {
		t.Errorf("standard error has %q as well", said)
	}
	// A reload has the journal told more: a client that trusts another CA, for instance.
	config, err := os.ReadFile(filepath.Join(h.dir, "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	h.write("config.toml", string(config)+"\n[log]\nlevel = \"debug\"\n")
	h.reload()
	j.entry(map[string]string{"MSG": "configuration read again"})
	if out, err := h.agent(nil, h.path, "run", "--user", "root", "--", "curl", "-s", "--cacert", "upstream.pem", "https://api.openai.com/").CombinedOutput(); err == nil {
		t.Errorf("it trusts sluice's CA: %s", out)
	}
	j.entry(map[string]string{"MSG": "client handshake failed", "HOST": "api.openai.com", "LEVEL": "DEBUG", "PRIORITY": "7"})
	j.mu.Lock()
	h.noSecret(j.raw.String())
	j.mu.Unlock()

	j.close()
	if err := os.RemoveAll(socket); err != nil { // a journal that ends may have removed it
		t.Fatal(err)
	}
	const reread = "configuration read again"
	h.reload()
	eventually(t, "the record is in standard error", func() bool { return strings.Contains(h.daemon.log.String(), reread) })
	line, _, _ := strings.Cut(h.daemon.log.String(), "\n")
	var record struct{ Level, Msg string }
	if err := json.Unmarshal([]byte(line), &record); err != nil || record.Level != "INFO" || record.Msg != reread {
		t.Errorf("without a journal standard error has %q (%v)", line, err)
	}
	back := newJournald(t, socket)
	h.reload()
	back.entry(map[string]string{"MSG": reread})
}

// TestJournalOfSomebodyElse: JOURNAL_STREAM is inherited by what writes elsewhere, and then means nothing.
func TestJournalOfSomebodyElse(t *testing.T) {
	h := newEmptyHouse(t, nil, nil)
	for _, stream := range []string{"1:1", "of no form"} {
		h.daemon.kill()
		h.start("env", "JOURNAL_STREAM="+stream) // which waits for the text
		if said := h.daemon.log.String(); !strings.Contains(said, "level=INFO msg=listening") {
			t.Errorf("JOURNAL_STREAM=%s: standard error has %q", stream, said)
		}
	}
}

// reload has the daemon read its configuration again.
func (h *house) reload() {
	h.t.Helper()
	if err := h.daemon.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		h.t.Fatal(err)
	}
}
