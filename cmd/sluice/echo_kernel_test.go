package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// TestSecretsThatAnUpstreamRepeats do not reach an agent, and it is written down once.
func TestSecretsThatAnUpstreamRepeats(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	if err := h.sim.SetBehaviour("first", simulator.Behaviour{
		Refusal: "custom", Status: http.StatusBadRequest, Header: map[string][]string{"X-Key": {openaiFirst}, "Content-Type": {"application/json"}},
		Body: `{"error":{"message":"there is no such model for ` + openaiFirst + `"}}`,
	}); err != nil {
		t.Fatal(err)
	}
	h.spend("first")
	stub := h.output("sh", "-c", "echo $OPENAI_API_KEY")
	stub = strings.TrimSpace(stub)
	for _, version := range []string{"--http1.1", "--http2"} {
		got := h.chat(version, "-i", "-d", chatBody)
		if strings.Count(got, stub) != 2 || !strings.Contains(got, "\n400 ") {
			t.Errorf("%s: %s", version, got)
		}
	}
	events := h.sluice("", "events")
	if strings.Count(events, "cred_echoed") != 1 || strings.Contains(events, openaiFirst) {
		t.Error(events)
	}
	if strings.Contains(h.daemon.log.String(), openaiFirst) {
		t.Error("a secret is in the log")
	}
}
