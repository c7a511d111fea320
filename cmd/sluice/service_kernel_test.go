package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// manager is what systemd is to a service of Type=notify: a socket that is told states.
type manager struct {
	t    *testing.T
	said chan string
}

func newManager(t *testing.T) (m *manager, socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m = &manager{t, make(chan string, 1024)}
	go func() { // as fast as they come: the queue of a socket is short
		defer close(m.said)
		for buffer := make([]byte, 4096); ; {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			m.said <- string(buffer[:n])
		}
	}()
	return m, socket
}

// told is the next message that is about no descriptor, by lines.
func (m *manager) told() []string {
	m.t.Helper()
	for {
		if said := m.message(); !strings.HasPrefix(said[0], "FDSTORE") {
			return said
		}
	}
}

func (m *manager) message() []string {
	m.t.Helper()
	select {
	case said := <-m.said:
		return strings.Split(said, "\n")
	case <-time.After(startLimit):
		m.t.Fatal("systemd is told nothing")
		return nil
	}
}

// next is the next message that is no ping of the watchdog.
func (m *manager) next() []string {
	m.t.Helper()
	for {
		if said := m.told(); !slices.Contains(said, "WATCHDOG=1") {
			return said
		}
	}
}

// TestAsAService has the daemon told by signals what systemd would tell it, and reads
// what it tells systemd: ready, alive, reloading and ready again, stopping, in this order.
func TestAsAService(t *testing.T) {
	t.Parallel()
	texts := make(chan string, 16)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m struct{ Text string }
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Error(err)
		}
		texts <- m.Text
	}))
	defer hook.Close()
	h := newHouse(t, nil)
	h.daemon.kill()
	m, socket := newManager(t)
	h.start("env", "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=600000")
	if said := m.told(); !slices.Equal(said, []string{"READY=1"}) {
		t.Fatalf("first of all it says %q", said)
	}
	for range 3 {
		if said := m.told(); !slices.Equal(said, []string{"WATCHDOG=1"}) {
			t.Fatalf("%q, want a ping", said)
		}
	}

	file := filepath.Join(h.dir, "config.toml")
	original, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	reload := func(further string) (ready []string) {
		t.Helper()
		h.write("config.toml", string(original)+further)
		if err := h.daemon.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		said := m.next()
		if len(said) != 2 || said[0] != "RELOADING=1" || !strings.HasPrefix(said[1], "MONOTONIC_USEC=") {
			t.Fatalf("%q, want that it reloads", said)
		}
		if ready = m.next(); ready[0] != "READY=1" {
			t.Fatalf("%q, want that it is ready again", ready)
		}
		return ready
	}

	// A mistake changes nothing, and is told to whoever asks for the unit's status.
	if said := reload("sokcet = 1\n"); len(said) != 2 || !strings.HasPrefix(said[1], "STATUS=") || !strings.Contains(said[1], `line 4: there is no key "sokcet"`) {
		t.Errorf("after a mistake: %q", said)
	}
	// What can change does: the channel is told of what happens from now on, once.
	reload(fmt.Sprintf("max_flows = 2048\n[log]\nlevel = \"info\"\n[[notify.webhook]]\nname = \"ops\"\nurl = %q\n", hook.URL))
	if log := h.daemon.log.String(); !strings.Contains(log, "keys=max_flows") {
		t.Errorf("nothing says that max_flows needs a restart:\n%s", log)
	}
	h.spend("first")
	h.chat("-d", chatBody)
	select {
	case text := <-texts:
		if !strings.HasPrefix(text, `Pool "openai" failed over from "a1" to "a2"`) {
			t.Error(text)
		}
	case <-time.After(startLimit):
		t.Errorf("the new channel is told nothing:\n%s", h.daemon.log)
	}
	reload("[log]\nlevel = \"error\"\n") // without the channel again

	if err := h.daemon.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if said := m.next(); !slices.Equal(said, []string{"STOPPING=1"}) {
		t.Errorf("%q, want that it stops", said)
	}
	<-h.daemon.ended
	if log := h.daemon.log.String(); strings.Contains(log, "stopping") || !strings.Contains(log, "listening") {
		t.Errorf("the level did not change:\n%s", log)
	}
	if len(texts) > 0 {
		t.Errorf("one more notice: %s", <-texts)
	}
}
