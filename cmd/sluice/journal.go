package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
)

// journalReads reports whether a stream is the process's standard error and the journal reads that, by the device and inode that systemd
// has put into JOURNAL_STREAM (systemd.exec(5)): the variable alone is inherited by what writes elsewhere.
func journalReads(stream io.Writer) bool {
	if stream != os.Stderr {
		return false
	}
	reads, err := journal.StderrIsJournalStream()
	return err == nil && reads
}

// sendEntry gives an entry to the journal: [journal.Send].
type sendEntry func(message string, priority journal.Priority, fields map[string]string) error

// journalHandler writes entries of the journal's own: MESSAGE is what people read, the record with its attributes as text, and each
// attribute is a field besides (systemd.journal-fields(7)), as are the record's message and level alone, MSG and LEVEL.
type journalHandler struct {
	level slog.Leveler
	send  sendEntry
	// text has the attributes so far and writes the line's rest; it is the handlers' that came out of one, and so is what it writes to.
	text  slog.Handler
	line  *lockedLine
	spare slog.Handler      // takes what the journal does not
	with  map[string]string // fields of the attributes so far
	group string            // what the names of further ones begin with
}

type lockedLine struct {
	sync.Mutex
	bytes.Buffer
}

func newJournalHandler(level slog.Leveler, send sendEntry, spare slog.Handler) *journalHandler {
	line := new(lockedLine)
	text := slog.NewTextHandler(&line.Buffer, &slog.HandlerOptions{Level: level})
	return &journalHandler{level: level, send: send, text: text, line: line, spare: spare}
}

// Enabled implements [slog.Handler].
func (h *journalHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

// Handle implements [slog.Handler].
func (h *journalHandler) Handle(ctx context.Context, record slog.Record) error {
	rest, err := h.rest(ctx, record)
	if err != nil {
		return err
	}
	fields := map[string]string{
		"MSG": record.Message, "LEVEL": record.Level.String(),
		// As systemd has them for a line of standard error: 3 is the facility of daemons.
		"SYSLOG_IDENTIFIER": "sluice", "SYSLOG_FACILITY": "3",
	}
	maps.Copy(fields, h.with)
	record.Attrs(func(a slog.Attr) bool {
		addFields(fields, h.group, a)
		return true
	})
	if err := h.send(record.Message+rest, priorityOf(record.Level), fields); err != nil {
		return h.spare.Handle(ctx, record)
	}
	return nil
}

// rest is the record's attributes as text.
func (h *journalHandler) rest(ctx context.Context, record slog.Record) (string, error) {
	// The entry has a time and a priority, and begins with the message.
	bare := slog.NewRecord(time.Time{}, record.Level, "", 0)
	record.Attrs(func(a slog.Attr) bool {
		bare.AddAttrs(a)
		return true
	})
	h.line.Lock()
	defer h.line.Unlock()
	h.line.Reset()
	err := h.text.Handle(ctx, bare)
	_, rest, _ := strings.Cut(h.line.String(), slog.MessageKey+`=""`)
	return strings.TrimSuffix(rest, "\n"), err
}

// WithAttrs implements [slog.Handler].
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.text, next.spare = h.text.WithAttrs(attrs), h.spare.WithAttrs(attrs)
	next.with = make(map[string]string)
	maps.Copy(next.with, h.with)
	for _, a := range attrs {
		addFields(next.with, h.group, a)
	}
	return &next
}

// WithGroup implements [slog.Handler].
func (h *journalHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	next := *h
	next.text, next.spare = h.text.WithGroup(name), h.spare.WithGroup(name)
	next.group = h.group + name + "_"
	return &next
}

// addFields adds an attribute, or those of a group. What may not be shown has said so by then: its LogValue, and its String, are asked.
func addFields(fields map[string]string, group string, a slog.Attr) {
	value := a.Value.Resolve()
	switch {
	case value.Kind() == slog.KindGroup:
		if a.Key != "" {
			group += a.Key + "_"
		}
		for _, inner := range value.Group() {
			addFields(fields, group, inner)
		}
	case a.Equal(slog.Attr{}):
	case value.Kind() == slog.KindTime:
		fields[fieldName(group+a.Key)] = value.Time().Format(time.RFC3339Nano)
	default:
		fields[fieldName(group+a.Key)] = value.String()
	}
}

// longestField is the longest name of a field that journald takes.
const longestField = 64

// taken are fields that mean something to the journal, or are the record's own, and what a family of such begins with.
var (
	taken    = []string{"DOCUMENTATION", "ERRNO", "INVOCATION_ID", "LEVEL", "MESSAGE", "MESSAGE_ID", "MSG", "PRIORITY", "TID", "UNIT", "USER_INVOCATION_ID", "USER_UNIT"}
	families = []string{"CODE_", "COREDUMP_", "OBJECT_", "SYSLOG_"}
)

// fieldName is the name of an attribute's field: capitals, digits and underscores, a letter first. Where that is a field with a meaning of
// its own, it begins with SLUICE_.
func fieldName(key string) string {
	name := strings.TrimLeft(strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, key), "_")
	begins := func(family string) bool { return strings.HasPrefix(name, family) }
	if name == "" || name[0] <= '9' || slices.Contains(taken, name) || slices.ContainsFunc(families, begins) {
		name = "SLUICE_" + name
	}
	return name[:min(len(name), longestField)]
}

// priorityOf is the priority of syslog(3) for a level.
func priorityOf(level slog.Level) journal.Priority {
	switch {
	case level < slog.LevelInfo:
		return journal.PriDebug
	case level < slog.LevelWarn:
		return journal.PriInfo
	case level < slog.LevelError:
		return journal.PriWarning
	}
	return journal.PriErr
}
