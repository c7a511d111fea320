package telegram

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluice-proxy/sluice/pool"
)

const (
	// maxPiece is below what a message may hold: 4096 UTF-16 units (sendMessage).
	maxPiece = 3500
	// maxPieces keeps an answer from filling a chat.
	maxPieces = 4
)

// reply is what is said to a command, with buttons under it.
type reply struct {
	text    string
	buttons [][]button
}

type button struct{ label, data string }

// andMore ends what does not fit.
const andMore = "\n… and more: the command line has all of it."

// one is the text as far as it fits in one message, which a notice is, and what takes the place of another.
func (r reply) one() string {
	text := strings.TrimSpace(r.text)
	if len(text) <= maxPiece {
		return text
	}
	cut := strings.LastIndexByte(text[:maxPiece], '\n')
	if cut <= 0 {
		cut = cutAt(text, maxPiece)
	}
	return text[:cut] + andMore
}

// pieces are the texts of the messages that the reply fits in, cut at ends of lines
// where there are any.
func (r reply) pieces() []string {
	var all []string
	rest := strings.TrimSpace(r.text)
	for len(rest) > maxPiece && len(all) < maxPieces-1 {
		cut := strings.LastIndexByte(rest[:maxPiece], '\n')
		if cut <= 0 {
			cut = cutAt(rest, maxPiece)
		}
		all = append(all, rest[:cut])
		rest = strings.TrimLeft(rest[cut:], "\n")
	}
	if len(rest) > maxPiece {
		rest = rest[:cutAt(rest, maxPiece)] + andMore
	}
	return append(all, rest)
}

// cutAt is the last place at or before n that cuts no character in two.
func cutAt(text string, n int) int {
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return n
}

// markup is InlineKeyboardMarkup of the Bot API. The library's own sends with each
// button an empty copy_text, and a button may have one purpose only.
type markup struct {
	Rows [][]markupButton `json:"inline_keyboard"`
}

type markupButton struct {
	Text string `json:"text"`
	Data string `json:"callback_data"`
}

func keyboard(rows [][]button) markup {
	m := markup{Rows: [][]markupButton{}}
	for _, row := range rows {
		var line []markupButton
		for _, b := range row {
			line = append(line, markupButton{Text: b.label, Data: b.data})
		}
		m.Rows = append(m.Rows, line)
	}
	return m
}

// poolReply is a pool as it is now, with what can be done to it.
func poolReply(p pool.PoolStatus, now time.Time) reply {
	return reply{text: poolText(p, now), buttons: poolButtons(p.Name)}
}

func poolText(p pool.PoolStatus, now time.Time) string {
	var text strings.Builder
	fmt.Fprintf(&text, "Pool %q is %s", p.Name, p.State)
	switch {
	case p.Active != "":
		fmt.Fprintf(&text, ", %q is active.", p.Active)
	case !p.RecoversAt.IsZero():
		fmt.Fprintf(&text, ", back %s.", moment(p.RecoversAt, now))
	default:
		text.WriteByte('.')
	}
	for _, m := range p.Members {
		fmt.Fprintf(&text, "\n• %s: %s", m.Name, m.State)
		if !m.Until.IsZero() {
			fmt.Fprintf(&text, ", back %s", moment(m.Until, now))
		}
		if m.Reason != "" {
			fmt.Fprintf(&text, " (%s)", m.Reason)
		}
	}
	for _, b := range p.Bindings {
		fmt.Fprintf(&text, "\n→ %s:%d", b.Host, b.Port)
	}
	if p.AuthResetTarget != "" {
		fmt.Fprintf(&text, "\nauth reset target: %s", p.AuthResetTarget)
	}
	return text.String()
}

// moment is an instant to come for people.
func moment(t, now time.Time) string {
	if !t.After(now) {
		return "now"
	}
	return fmt.Sprintf("in %s, at %s UTC", pool.Span(t.Sub(now)), t.UTC().Format("2006-01-02 15:04"))
}

// orNone is a list's text, or what is said if it is empty.
func orNone(lines []string, none string) reply {
	if len(lines) == 0 {
		return reply{text: none}
	}
	return reply{text: strings.Join(lines, "\n")}
}

// eventLine is an event on one line, with what is empty left out.
func eventLine(e pool.Event) string {
	words := []string{e.Time.UTC().Format("01-02 15:04:05"), string(e.Kind)}
	for _, part := range []struct{ name, value string }{
		{"pool", e.Pool},
		{"member", e.Member},
		{"to", e.To},
		{"target", e.Target},
		{"reason", e.Reason},
		{"detail", e.Detail},
		{"by", e.Actor},
	} {
		if part.value != "" {
			words = append(words, part.name+"="+part.value)
		}
	}
	return strings.Join(words, " ")
}
