// Package notice says in one sentence what a person has to know about an event.
package notice

import (
	"fmt"
	"strings"

	"github.com/sluice-proxy/sluice/pool"
)

// Notice is the sentence about an event.
type Notice struct {
	Event pool.Event
	Text  string
}

// Of is the notice about an event; false if it is nothing that people are told
// unasked. People and scripts rely on the sentences.
func Of(e pool.Event) (Notice, bool) {
	text := ""
	switch e.Kind {
	case pool.EventFailover:
		text = fmt.Sprintf("Pool %q failed over from %q to %q after %s%s.", e.Pool, e.Member, e.To, e.Reason, back(e))
	case pool.EventExhausted:
		text = fmt.Sprintf("Pool %q exhausted: %s cooling down%s.", e.Pool, all(e), first(e))
	case pool.EventRecovered:
		text = fmt.Sprintf("Pool %q recovered: %q is available again%s.", e.Pool, e.Member, after(e))
	case pool.EventAuthReset:
		text = fmt.Sprintf("Pool %q: agent auth reset%s succeeded.", e.Pool, in(e))
	case pool.EventAuthResetFail:
		text = fmt.Sprintf("Pool %q: agent auth reset%s failed: %s.", e.Pool, in(e), sentence(e.Reason))
	case pool.EventRefreshFailed:
		text = fmt.Sprintf("%she login of %q cannot be renewed (%s): sign in again and run 'sluice cred update %s'.", of(e), e.Member, sentence(e.Reason), e.Member)
	case pool.EventFetchFailed:
		text = fmt.Sprintf("%she secret of %q cannot be read again, and what was read last is used: %s.", of(e), e.Member, sentence(e.Reason))
	default:
		return Notice{}, false
	}
	return Notice{Event: e, Text: text}, true
}

// of begins a sentence about a credential, up to the "t" of its article: with its pool, if
// it is in one.
func of(e pool.Event) string {
	if e.Pool == "" {
		return "T"
	}
	return fmt.Sprintf("Pool %q: t", e.Pool)
}

func back(e pool.Event) string {
	if e.Until.IsZero() {
		return ""
	}
	return fmt.Sprintf("; %q is back in %s", e.Member, pool.Span(e.Until.Sub(e.Time)))
}

func all(e pool.Event) string {
	if e.Members == 1 {
		return "its only member is"
	}
	return fmt.Sprintf("all %d members are", e.Members)
}

func first(e pool.Event) string {
	switch {
	case e.Until.IsZero():
		return ""
	case e.Members == 1:
		return fmt.Sprintf("; %q is back in %s", e.Member, pool.Span(e.Until.Sub(e.Time)))
	}
	return fmt.Sprintf("; %q recovers first, in %s", e.Member, pool.Span(e.Until.Sub(e.Time)))
}

// in is where the agent was; nowhere if there is none.
func in(e pool.Event) string {
	if e.Target == "" {
		return ""
	}
	return " in " + e.Target
}

func after(e pool.Event) string {
	if e.Since.IsZero() {
		return ""
	}
	return " after " + pool.Span(e.Time.Sub(e.Since))
}

// sentence is a reason as the end of one: on one line, without its own full stop.
func sentence(reason string) string {
	return strings.TrimRight(strings.Join(strings.Fields(reason), " "), ".")
}

// Count is a number of things.
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
