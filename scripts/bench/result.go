package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// outcome is what a run gave.
type outcome struct {
	Machine string    `json:"machine"`
	Time    time.Time `json:"time"`
	Rounds  int       `json:"rounds"`
	Seconds float64   `json:"seconds"`
	Results []result  `json:"results"`
	// Unable says who could not do which work, and why.
	Unable map[string]map[string]string `json:"unable"`

	works []work
	among []string
}

func newOutcome(p plan) *outcome {
	return &outcome{
		Machine: machine(), Time: time.Now().UTC(), Rounds: p.rounds, Seconds: p.seconds,
		Unable: make(map[string]map[string]string), works: p.works, among: p.among,
	}
}

// machine is what the figures depend on most.
func machine() string {
	model := runtime.GOARCH
	info, _ := os.ReadFile("/proc/cpuinfo") // none: the architecture has to do
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d processors (%s), Linux %s, %s", runtime.NumCPU(), model, strings.TrimSpace(string(release)), runtime.Version())
}

func (o *outcome) unable(contestant, work string, err error) {
	if o.Unable[contestant] == nil {
		o.Unable[contestant] = make(map[string]string)
	}
	why, _, _ := strings.Cut(err.Error(), "\n")
	o.Unable[contestant][work] = why
}

func (o *outcome) save(file string) error {
	text, err := json.MarshalIndent(o, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// of picks one contestant's measurements of a work, by round. A round that failed is
// not there, and neither are later ones.
func (o *outcome) of(contestant, work string, pick func(result) float64) []float64 {
	var values []float64
	for _, r := range o.Results {
		if r.Contestant == contestant && r.Work == work {
			values = append(values, pick(r))
		}
	}
	return values
}

// spread is the median of some values, the smallest and the largest.
func spread(values []float64) (median, least, most float64) {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0, 0, 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[0], sorted[n-1]
}

// ratios divides round by round, so that what disturbed a round cancels out.
func ratios(a, b []float64) []float64 {
	out := make([]float64, 0, len(a))
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}

// column is one figure of a table.
type column struct {
	head    string
	format  string
	pick    func(result) float64
	proxied bool // of the proxy's processes: the direct way has none
}

func perSecond(r result) float64 { return float64(r.Count) / r.Seconds }
func mibPerSecond(r result) float64 {
	return float64(r.Bytes) / (1 << 20) / r.Seconds
}
func p50(r result) float64      { return r.P50 }
func p99(r result) float64      { return r.P99 }
func cpuEach(r result) float64  { return r.CPU / float64(r.Count) }
func cpuMiB(r result) float64   { return r.CPU / (float64(r.Bytes) / (1 << 20)) }
func mib(r result) float64      { return r.RSS / (1 << 20) }
func kibEach(r result) float64  { return r.RSS / 1024 / float64(r.Count) }
func cpuShare(r result) float64 { return r.CPU / 1e6 / r.Seconds }

var (
	peak       = column{"peak RSS, MiB", "%.0f", mib, true}
	ofRequests = []column{
		{"requests/s", "%.0f", perSecond, false},
		{"p50, us", "%.0f", p50, false},
		{"p99, us", "%.0f", p99, false},
		{"CPU us/request", "%.1f", cpuEach, true},
		peak,
	}
	ofStreams = []column{
		{"events/s", "%.0f", perSecond, false},
		{"p50, us", "%.0f", p50, false},
		{"p99, us", "%.0f", p99, false},
		{"CPU us/event", "%.1f", cpuEach, true},
		peak,
	}
	ofBytes    = []column{{"MiB/s", "%.0f", mibPerSecond, false}, {"CPU us/MiB", "%.0f", cpuMiB, true}, peak}
	ofConnects = []column{{"p50, us", "%.1f", p50, false}, {"p99, us", "%.1f", p99, false}}
	ofIdle     = []column{peak, {"KiB a stream", "%.1f", kibEach, true}, {"CPUs", "%.3f", cpuShare, true}}
)

// isFor tells whether a contestant takes part in the work.
func (w work) isFor(contestant string) bool {
	return w.among == nil || slices.Contains(w.among, contestant)
}
