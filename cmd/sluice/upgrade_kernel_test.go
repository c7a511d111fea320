package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
)

// pinnedLink is one of the house's links, by the kernel's word.
type pinnedLink struct {
	link link.ID
	prog uint32
}

// pinnedLinks are those of its targets, by cgroup and hook.
func (h *house) pinnedLinks() map[string]pinnedLink {
	h.t.Helper()
	files, err := filepath.Glob(filepath.Join(h.pins(), "links", "*", "*"))
	if err != nil || len(files) == 0 {
		h.t.Fatalf("no links are pinned: %v", err)
	}
	all := make(map[string]pinnedLink)
	for _, file := range files {
		l, err := link.LoadPinnedLink(file, nil)
		if err != nil {
			h.t.Fatal(err)
		}
		info, err := l.Info()
		if err != nil {
			h.t.Fatal(err)
		}
		all[strings.TrimPrefix(file, h.pins())] = pinnedLink{info.ID, uint32(info.Program)}
		if err := l.Close(); err != nil {
			h.t.Fatal(err)
		}
	}
	return all
}

// pins is the house's pin directory.
func (h *house) pins() string {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, "config.toml"))
	if err != nil {
		h.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), `pin_dir = "`)
	dir, _, _ := strings.Cut(after, `"`)
	return dir
}

// TestUpgradeSwapsThePrograms starts a daemon on what one of an older version has left, under load: other
// programs, and one hook less. Every link stays, and leads to the new programs.
func TestUpgradeSwapsThePrograms(t *testing.T) {
	h, m := newManagedHouse(t)
	began := time.Now()
	p := h.press(100, 30*time.Second)
	p.recovered()
	m.stop()
	before := h.pinnedLinks()
	const lacking = "sendmsg6"
	for name := range before {
		if filepath.Base(name) == lacking {
			if err := os.Remove(filepath.Join(h.pins(), name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.start()
	p.recovered()
	after := h.pinnedLinks()
	p.endWhole(began, 1)
	if len(after) == 0 || len(after) != len(before) {
		t.Errorf("%d links were pinned, and %d are", len(before), len(after))
	}
	for name, was := range before {
		is := after[name]
		if is.prog == was.prog || is.prog == 0 {
			t.Errorf("%s still leads to program %d", name, was.prog)
		}
		if (is.link == was.link) == (filepath.Base(name) == lacking) {
			t.Errorf("%s was link %d and is %d", name, was.link, is.link)
		}
	}
}

// TestUpgradeToAnotherSchema starts a daemon on maps that it cannot go on with, under load. Nothing goes
// past it, and it recovers by itself.
func TestUpgradeToAnotherSchema(t *testing.T) {
	h, m := newManagedHouse(t)
	p := h.press(50, 30*time.Second)
	p.recovered()
	m.stop()
	maps, err := filepath.Glob(filepath.Join(h.pins(), "maps-*"))
	if err != nil || len(maps) != 1 {
		t.Fatalf("the maps are %q: %v", maps, err)
	}
	if err := os.Rename(maps[0], filepath.Join(h.pins(), "maps-0")); err != nil {
		t.Fatal(err)
	}
	before := h.arrived()
	h.nothingArrives(300 * time.Millisecond)
	m.start()
	started := time.Now()
	p.recovered()
	all, lost := p.end()
	for _, f := range lost {
		if f.Begun.After(started) {
			t.Errorf("lost when the new daemon was there: %s", f)
		}
		// Whoever had got past sluice would have been shown the origin's certificate, which it does not trust.
		if strings.Contains(f.Error, "certificate") {
			t.Errorf("past sluice: %s", f)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(h.pins(), "maps-*")); !slices.Equal(left, maps) {
		t.Errorf("the maps are %q, want %q", left, maps)
	}
	t.Logf("%d of %d requests lost, %d connections to the origin since", len(lost), all.Sent, h.arrived()-before)
}

// prober is an agent that connects when it is told to.
type prober struct {
	h   *house
	in  io.WriteCloser
	out *bufio.Scanner
	end func()
}

// newProber starts one under `sluice run`.
func (h *house) newProber() *prober {
	h.t.Helper()
	script := `while read -r _; do if (exec 3<>"/dev/tcp/` + h.pair.ServerIP4 + `/443") 2>/dev/null; then echo connected; else echo refused; fi; done`
	cmd := h.agentFor(5*time.Minute, nil, h.path, "run", "--user", "root", "--", "bash", "-c", script)
	in, err := cmd.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	var once sync.Once
	p := &prober{h: h, in: in, out: bufio.NewScanner(out), end: func() {
		once.Do(func() {
			_ = in.Close()
			_ = cmd.Wait() // its daemon may be away
		})
	}}
	h.t.Cleanup(p.end)
	return p
}

// connect says what became of one connect, and whether it went straight to the origin.
func (p *prober) connect() (said string, direct bool) {
	p.h.t.Helper()
	before := p.h.arrived()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		p.h.t.Fatal(err)
	}
	if !p.out.Scan() {
		p.h.t.Fatalf("the agent has ended: %v", errors.Join(p.out.Err(), io.EOF))
	}
	return p.out.Text(), p.h.arrived() > before
}

// redirected is how many connects were sent to sluice, as the kernel counts them.
func (h *house) redirected() (n int) {
	h.t.Helper()
	var status struct{ Counters map[string]int }
	if err := json.Unmarshal([]byte(h.sluice("", "status", "-o", "json")), &status); err != nil {
		h.t.Fatal(err)
	}
	return status.Counters["bpf.redirected"]
}

// TestFailMode ends the daemon in every way, in both modes, and looks where a connect goes meanwhile and
// afterwards.
func TestFailMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"closed", "open"} {
		t.Run(mode, func(t *testing.T) {
			h := newHouse(t, nil, `fail_mode = "`+mode+`"`+"\n")
			p := h.newProber()
			throughSluice := func(when string) {
				t.Helper()
				before := h.redirected()
				if said, _ := p.connect(); said != "connected" || h.redirected() != before+1 {
					t.Errorf("%s: %s, redirected %d times", when, said, h.redirected()-before)
				}
			}
			throughSluice("at first")
			for _, way := range []struct {
				name string
				end  func()
			}{
				{"kill", h.daemon.kill},
				{"stop", func() {
					if err := h.daemon.cmd.Process.Signal(os.Interrupt); err != nil {
						t.Fatal(err)
					}
					<-h.daemon.ended
				}},
				{"upgrade to another schema", func() {
					h.daemon.kill()
					maps, err := filepath.Glob(filepath.Join(h.pins(), "maps-*"))
					if err != nil || len(maps) != 1 {
						t.Fatalf("the maps are %q: %v", maps, err)
					}
					if err := os.Rename(maps[0], filepath.Join(h.pins(), "maps-0")); err != nil {
						t.Fatal(err)
					}
				}},
			} {
				way.end()
				said, direct := p.connect()
				if want := map[string]string{"closed": "refused", "open": "connected"}[mode]; said != want || direct != (mode == "open") {
					t.Errorf("after a %s a connect is %s, direct %t", way.name, said, direct)
				}
				h.start()
				throughSluice("after a " + way.name + " and a start")
			}
			// The other mode from the next start on.
			other := map[string]string{"closed": "open", "open": "closed"}[mode]
			h.daemon.kill()
			file := filepath.Join(h.dir, "config.toml")
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			h.write("config.toml", strings.Replace(string(text), `fail_mode = "`+mode, `fail_mode = "`+other, 1))
			h.start()
			throughSluice("in the other mode")
			h.daemon.kill()
			if said, direct := p.connect(); direct != (other == "open") {
				t.Errorf("after a kill in the other mode a connect is %s, direct %t", said, direct)
			}
			h.start()
		})
	}
}
