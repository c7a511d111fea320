package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// resident is the most memory that the daemon has had, in bytes.
func (h *house) resident() int {
	h.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.daemon.cmd.Process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	kib := 0
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	if _, err := fmt.Sscan(after, &kib); err != nil {
		h.t.Fatalf("%v in %s", err, text)
	}
	return kib << 10
}

// raceDetector tells whether this program, and so the daemon, takes several times the memory.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// TestMemoryPressure has agents send and get far more at once than the daemon may use, which GOMEMLIMIT says. All of it
// arrives, what Go manages stays near the limit, all that is resident within twice of it (the program's own pages
// included), and the daemon ends as ever.
func TestMemoryPressure(t *testing.T) {
	const up, down, limit = 8 << 20, 1 << 20, 48 << 20
	each := 4
	if os.Getenv("SLUICE_SOAK") != "" {
		each = 12
	}
	h := newHouse(t, nil)
	h.daemon.kill()
	h.start("env", fmt.Sprintf("GOMEMLIMIT=%d", limit))
	before := h.rested()
	if err := os.WriteFile(filepath.Join(h.dir, "large"), make([]byte, up), 0o644); err != nil {
		t.Fatal(err)
	}

	// Uploads are kept to be sent again until their answers begin, as far as there is room; slow readers have what is
	// under way for them waiting.
	cmd := h.agentFor(3*time.Minute, nil, h.path, "run", "--user", "root", "--", "sh", "-c", fmt.Sprintf(`for i in $(seq %d); do
		for version in --http1.1 --http2; do
			curl -sS $version -o /dev/null -w '%%{http_code} up %%{size_upload}\n' -H 'Expect:' --data-binary @large 'https://%[2]s/upload?delay=4s' &
			curl -sS $version --limit-rate 500k -o /dev/null -w '%%{http_code} down %%{size_download}\n' 'https://%[2]s/bytes?n=%[3]d' &
		done
	done; wait`, each, loadHost, down))
	in, out, stderr := h.piped(cmd)
	_ = in.Close()
	ended := make(chan string)
	go func() {
		text, err := io.ReadAll(out)
		if err != nil {
			t.Error(err)
		}
		ended <- string(text)
	}()
	managed, said := 0, ""
	for over := false; !over; {
		select {
		case said = <-ended:
			over = true
		case <-time.After(200 * time.Millisecond):
			families := h.scrape()
			bytes := func(name string) int { return int(families["go_memstats_"+name].GetMetric()[0].GetGauge().GetValue()) }
			managed = max(managed, bytes("sys_bytes")-bytes("heap_released_bytes"))
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the agents: %v: %s", err, stderr.String())
	}
	fared := make(map[string]int)
	for line := range strings.Lines(said) {
		fared[strings.TrimSpace(line)]++
	}
	if fared[fmt.Sprintf("200 up %d", up)] != 2*each || fared[fmt.Sprintf("200 down %d", down)] != 2*each || len(fared) != 2 {
		t.Errorf("of %d each way: %v", 2*each, fared)
	}
	h.nothingLeft(before)
	most := h.resident()
	t.Logf("%d bodies of %d and %d MiB at once: %d MiB were managed and %d MiB resident at the most, under a limit of %d MiB",
		4*each, up>>20, down>>20, managed>>20, most>>20, limit>>20)
	if managed > limit*5/4 {
		t.Errorf("%d MiB were managed at the most, want about %d", managed>>20, limit>>20)
	}
	if most > 2*limit && !raceDetector() {
		t.Errorf("%d MiB were resident, want %d at the most", most>>20, 2*limit>>20)
	}
	if err := h.daemon.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-h.daemon.done:
		if err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
	case <-time.After(startLimit):
		t.Error("the daemon does not end")
	}
}
