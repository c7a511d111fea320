package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/control/api"
)

// TestNothingOfAnAgentsSteersTheTerminal: what an agent has named is printed where root reads it.
func TestNothingOfAnAgentsSteersTheTerminal(t *testing.T) {
	t.Parallel()
	const name = "a\x1b]0;title\x07\x1b[2J\u009b1mz"
	var out bytes.Buffer
	c := &cli{env: env{stdout: &out, stderr: &out, getenv: func(string) string { return "" }}}
	if err := c.report([]finding{warn("agents", "take "+name+" away", "it has %s", name)}); err != nil {
		t.Fatal(err)
	}
	c.reportOlder(api.AttachedTarget{Older: []api.OlderConnection{{Fate: "closed", Command: name, Pid: 1}}})
	out.WriteString(c.eventLine(api.Event{Time: time.Unix(0, 0), Kind: "denied", Detail: name}))
	c.remark("0a1b2c3d", api.TargetStateAttached, name)
	out.WriteString(oneLine(errors.New(name)))
	if text := out.String(); strings.ContainsAny(text, "\x1b\x07\u009b") || strings.Count(text, "title") < 5 {
		t.Errorf("%q", text)
	}
}
