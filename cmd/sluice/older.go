package main

import (
	"fmt"
	"strings"

	"github.com/sluice-proxy/sluice/control/api"
)

// fates are what a person is told of connections that were there before an attach, by what became of them.
var fates = []struct {
	fate api.OlderConnectionFate
	text string
}{
	{"closed", "closed: their processes connect anew, through sluice"},
	{"kept", "kept: they go on past sluice, with the credential that the agent has, until they end"},
	{"not closed", "not closed, as the kernel cannot: what they send is dropped"},
}

// reportOlder names on standard error, beside the target's id, the connections that were there before.
func (c *cli) reportOlder(t api.AttachedTarget) {
	for _, f := range fates {
		var lines []string
		for _, o := range t.Older {
			if o.Fate == f.fate {
				lines = append(lines, describeOlder(o))
			}
		}
		count := len(lines)
		switch f.fate {
		case "closed":
			count = max(count, t.Destroyed)
		case "kept":
			count = max(count, t.Kept)
		}
		if count == 0 {
			continue
		}
		if more := count - len(lines); more > 0 {
			lines = append(lines, fmt.Sprintf("and %d more", more))
		}
		fmt.Fprintf(c.stderr, "connections to bound ports that were there before: %d, %s\n  %s\n", count, f.text, strings.Join(lines, "\n  "))
	}
}

func describeOlder(o api.OlderConnection) string {
	text := fmt.Sprintf("%s %s -> %s %s", o.Protocol, o.Local, o.Remote, o.State)
	if o.Pid != 0 {
		text += fmt.Sprintf(", %s (pid %d)", printable(o.Command), o.Pid)
	}
	return text
}
