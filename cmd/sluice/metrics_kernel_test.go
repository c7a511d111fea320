package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// scrape asks the daemon for its metrics, as Prometheus does.
func (h *house) scrape() map[string]*dto.MetricFamily {
	h.t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", h.socket)
		},
	}}
	resp, err := client.Get("http://sluice/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		h.t.Fatalf("%s: %v", resp.Status, err)
	}
	return families
}

// read is the value of a metric with these labels, "name=value" each, and no others.
func read(families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	for _, m := range families["sluice_"+name].GetMetric() {
		var have []string
		for _, l := range m.GetLabel() {
			have = append(have, l.GetName()+"="+l.GetValue())
		}
		if slices.Equal(have, labels) {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return -1
}

// TestMetrics scrapes a daemon with a member that was refused, one that is spent, and a
// request that waits; and holds the page about metrics to what is there.
func TestMetrics(t *testing.T) {
	t.Parallel()
	h := newEmptyHouse(t, nil, []simulator.Credential{{Name: "first", Secret: openaiFirst}, {Name: "second", Secret: openaiSecond}})
	h.sluice(openaiFirst, "cred", "add", "a1")
	h.sluice(openaiSecond, "cred", "add", "a2")
	h.sluice("", "pool", "create", "openai", "--members", "a1,a2", "--provider", "openai", "--hold", "1m")
	h.chat("-d", chatBody)
	h.spend("first")
	h.chat("-d", chatBody)
	if err := h.sim.Spend("second", 20*time.Second); err != nil {
		t.Fatal(err)
	}
	waiting := h.agent(nil, h.path, "run", "--user", "root", "--", "curl", "-sS", "--max-time", "35", "-o", filepath.Join(h.dir, "answer"),
		"-H", "Authorization: Bearer x", "-H", "Content-Type: application/json", "-d", chatBody, "https://api.openai.com/v1/chat/completions")
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	var got map[string]*dto.MetricFamily
	for deadline := time.Now().Add(15 * time.Second); read(got, "held_requests", "pool=openai") != 1; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no request is held")
		}
		got = h.scrape()
	}
	describes(t, got) // while a request waits: later there is none to be counted
	for name, want := range map[string]float64{
		"requests_total member=a1 outcome=ok pool=openai":           1,
		"requests_total member=a1 outcome=rate_limited pool=openai": 1,
		"requests_total member=a2 outcome=ok pool=openai":           1,
		"requests_total member=a2 outcome=rate_limited pool=openai": 1,
		"failovers_total member=a1 pool=openai":                     1,
		"replays_total":                                             1,
		"pool_state pool=openai state=exhausted":                    1,
		"pool_state pool=openai state=healthy":                      0,
		"member_state member=a1 pool=openai state=cooldown":         1,
		"connections":           1,
		"unsaved_changes":       0,
		"added_latency_seconds": 2,
	} {
		fields := strings.Fields(name)
		if v := read(got, fields[0], fields[1:]...); v != want {
			t.Errorf("%s: %v, want %v", name, v, want)
		}
	}
	if left := read(got, "member_cooldown_seconds", "member=a1", "pool=openai"); left < 600 || left > 699 {
		t.Errorf("a1 is out for %v s", left)
	}
	if kept := read(got, "replay_bytes"); kept < float64(len(chatBody)) {
		t.Errorf("%v bytes are kept", kept)
	}
	if redirected := read(got, "events_total", "cause=bpf.redirected"); redirected != 3 {
		t.Errorf("%v redirected", redirected)
	}
	if err := waiting.Wait(); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(10 * time.Second); read(got, "notice_backlog", "reader=log") != 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log is behind: %v", got["sluice_notice_backlog"])
		}
		got = h.scrape()
	}
}

// describes holds docs/metrics.md to what a scrape says of each metric.
func describes(t *testing.T, families map[string]*dto.MetricFamily) {
	t.Helper()
	var rows []string
	for name, f := range families {
		if !strings.HasPrefix(name, "sluice_") {
			continue
		}
		labels := "-"
		if pairs := f.GetMetric()[0].GetLabel(); len(pairs) > 0 {
			names := make([]string, len(pairs))
			for i, l := range pairs {
				names[i] = "`" + l.GetName() + "`"
			}
			labels = strings.Join(names, ", ")
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |", name, strings.ToLower(f.GetType().String()), labels, f.GetHelp()))
	}
	slices.Sort(rows)
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families["sluice_events_total"].GetMetric() {
		if cause := m.GetLabel()[0].GetValue(); !strings.Contains(string(page), "`"+cause+"`") {
			t.Errorf("docs/metrics.md does not say what %s is", cause)
		}
	}
	if want := strings.Join(rows, "\n") + "\n"; !strings.Contains(string(page), want) {
		t.Errorf("docs/metrics.md does not have this table:\n%s", want)
	}
}
