package main

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/intercept/netns"
)

// arrived is how many connections the kernel has taken for the origin since its namespace was made, whoever
// made them (PassiveOpens, RFC 4022).
func (h *house) arrived() int {
	h.t.Helper()
	ns, err := netns.Open(h.pair.Server)
	if err != nil {
		h.t.Fatal(err)
	}
	defer ns.Close()
	var text []byte
	if err := ns.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if fields[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		n, err := strconv.Atoi(fields[slices.Index(names, "PassiveOpens")])
		if err != nil {
			h.t.Fatal(err)
		}
		return n
	}
	h.t.Fatalf("no PassiveOpens in %s", text)
	return 0
}

// nothingArrives watches the origin for a time in which no connection may reach it.
func (h *house) nothingArrives(d time.Duration) {
	h.t.Helper()
	before := h.arrived()
	time.Sleep(d)
	if n := h.arrived() - before; n != 0 {
		h.t.Errorf("%d connections reached the origin, and sluice made none", n)
	}
}

func (m *serviceManager) signal(s syscall.Signal) {
	m.h.t.Helper()
	if err := m.h.daemon.cmd.Process.Signal(s); err != nil {
		m.h.t.Fatal(err)
	}
}

// TestKillUnderAManager kills the daemon under load. What is begun while nobody is there waits for the
// next one; nothing reaches the origin meanwhile.
func TestKillUnderAManager(t *testing.T) {
	h, m := newManagedHouse(t)
	p := h.press(50, 30*time.Second)
	for range 3 {
		p.recovered()
		h.daemon.kill()
		killed := time.Now()
		h.nothingArrives(500 * time.Millisecond)
		m.start()
		p.recovered()
		p.mu.Lock()
		for _, f := range p.lost {
			if f.Begun.After(killed) {
				t.Errorf("lost after the kill: %s", f)
			}
		}
		p.mu.Unlock()
	}
	p.end()
}

// TestKillWithoutAManager kills the daemon under load, and nobody keeps its listeners: connects are refused, at
// once, and go on when it is started again.
func TestKillWithoutAManager(t *testing.T) {
	h := newHouse(t, nil)
	p := h.press(50, 30*time.Second)
	p.recovered()
	h.daemon.kill()
	killed := time.Now()
	h.nothingArrives(time.Second)
	back := time.Now()
	h.start()
	p.recovered()
	_, lost := p.end()
	var refused []time.Duration
	for _, f := range lost {
		if f.Begun.Before(killed) || f.Begun.After(back) {
			continue
		}
		if !strings.Contains(f.Error, "connection refused") && !strings.HasPrefix(f.Error, "answer: ") {
			t.Errorf("while nobody was there: %s", f)
		}
		refused = append(refused, f.After)
	}
	slices.Sort(refused)
	if len(refused) < 10 || refused[len(refused)/2] > 50*time.Millisecond {
		t.Errorf("%d connects were refused, half of them after %v, want at once", len(refused), refused)
	}
}

// TestStoppedDaemonLeaksNothing stops the daemon with SIGSTOP for ten seconds, under load.
func TestStoppedDaemonLeaksNothing(t *testing.T) {
	t.Run("case_33_daemon_stopped", func(t *testing.T) {
		h, m := newManagedHouse(t)
		began := time.Now()
		p := h.press(20, time.Minute)
		p.recovered()
		m.signal(syscall.SIGSTOP)
		time.Sleep(100 * time.Millisecond) // what was on its way
		h.nothingArrives(10 * time.Second)
		if now := p.state(); now.Waiting < 100 {
			t.Errorf("only %d requests wait: this proves nothing", now.Waiting)
		}
		m.signal(syscall.SIGCONT)
		p.recovered()
		p.endWhole(began, 0)
	})
}

// TestWatchdogEndsAStoppedDaemon is what systemd does with a daemon that does not say that it lives.
func TestWatchdogEndsAStoppedDaemon(t *testing.T) {
	const limit = 6 * time.Second // three answers in it, of a daemon that may have to wait for a processor
	h, m := newManagedHouse(t)
	m.stop()
	m.start("WATCHDOG_USEC=" + strconv.Itoa(int(limit/time.Microsecond)))
	p := h.press(20, time.Minute)
	p.recovered()
	began := time.Now()
	for time.Since(began) < 3*limit/2 {
		if silent := time.Since(m.lastPing()); silent > limit {
			t.Fatalf("the daemon lives, and says nothing for %s", silent)
		}
		time.Sleep(50 * time.Millisecond)
	}
	m.signal(syscall.SIGSTOP)
	stopped := time.Now()
	eventually(t, "the daemon is found silent", func() bool { return time.Since(m.lastPing()) > limit })
	m.signal(syscall.SIGABRT)
	m.signal(syscall.SIGKILL) // which TimeoutAbortSec= brings: a stopped process takes no other
	<-h.daemon.ended
	m.start()
	p.recovered()
	_, lost := p.end()
	for _, f := range lost {
		// A connection that was there before is lost with the one who had it; the others waited.
		if f.Begun.After(stopped) && f.Kind == "fresh" {
			t.Errorf("lost: %s", f)
		}
	}
}

// TestCommandsWaitForTheNextDaemon gives a command while nobody is there.
func TestCommandsWaitForTheNextDaemon(t *testing.T) {
	h, m := newManagedHouse(t)
	for _, end := range []func(){m.stop, h.daemon.kill} {
		end()
		cmd := exec.Command(h.path, "pool", "list")
		cmd.Env = []string{"SLUICE_SOCKET=" + h.socket, quickExit}
		said := make(chan string, 1)
		go func() {
			out, err := cmd.CombinedOutput()
			if err != nil {
				out = append(out, err.Error()...)
			}
			said <- string(out)
		}()
		select {
		case text := <-said:
			t.Fatalf("it did not wait: %s", text)
		case <-time.After(300 * time.Millisecond):
		}
		m.start()
		if text := <-said; !strings.Contains(text, "openai") {
			t.Errorf("it says %q", text)
		}
	}
	if got := m.names(apiSocketName); len(got) != 1 {
		t.Errorf("stored are the sockets %q, want one", got)
	}
	// A unit that has stopped for good: the socket is not kept, and the command says so.
	m.stop()
	m.release()
	cmd := exec.Command(h.path, "pool", "list")
	cmd.Env = []string{"SLUICE_SOCKET=" + h.socket, quickExit}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "no daemon answers") {
		t.Errorf("%v: %s", err, out)
	}
	m.start() // and what it has left is no obstacle
	h.sluice("", "pool", "list")
}
