package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/sluice-proxy/sluice/pool/vault"
)

// entry is what the journal is given.
type entry struct {
	message  string
	priority journal.Priority
	fields   map[string]string
}

// newEntries is a handler, and what it has sent.
func newEntries(level slog.Leveler, spare slog.Handler) (*journalHandler, *[]entry) {
	sent := new([]entry)
	return newJournalHandler(level, func(message string, priority journal.Priority, fields map[string]string) error {
		*sent = append(*sent, entry{message, priority, fields})
		return nil
	}, spare), sent
}

// TestJournalHandlerConforms holds the handler to what log/slog wants of every one. A group is the beginning of a field's name.
func TestJournalHandlerConforms(t *testing.T) {
	var sent *[]entry
	slogtest.Run(t, func(*testing.T) slog.Handler {
		var h slog.Handler
		h, sent = newEntries(slog.LevelInfo, slog.DiscardHandler)
		return h
	}, func(t *testing.T) map[string]any {
		if len(*sent) != 1 {
			t.Fatalf("%d entries, want one", len(*sent))
		}
		tree := make(map[string]any)
		for name, value := range (*sent)[0].fields {
			if strings.HasPrefix(name, "SYSLOG_") {
				continue
			}
			at, path := tree, strings.Split(name, "_")
			for _, group := range path[:len(path)-1] {
				if at[group] == nil {
					at[group] = make(map[string]any)
				}
				at = at[group].(map[string]any)
			}
			at[path[len(path)-1]] = value
		}
		lower := lowered(tree)
		// The journal has the time of each entry by itself.
		if !strings.HasSuffix(t.Name(), "/zero-time") {
			lower[slog.TimeKey] = ""
		}
		return lower
	})
}

// lowered is a tree with the names as slogtest has them: all in lower case, but for the groups, which are G and H.
func lowered(tree map[string]any) map[string]any {
	lower := make(map[string]any)
	for name, value := range tree {
		if below, ok := value.(map[string]any); ok {
			lower[name] = lowered(below)
		} else {
			lower[strings.ToLower(name)] = value
		}
	}
	return lower
}

func TestJournalEntry(t *testing.T) {
	h, sent := newEntries(slog.LevelDebug, slog.DiscardHandler)
	until := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	secret := vault.NewSecret([]byte("sk-canary"))
	slog.New(h).With("pool", "openai").Warn("member is out", "until", until, "again_in", 90*time.Second,
		"error", errors.New("two\nlines"), "unit", "agent.service", "level", "its own", "addr", netip.MustParseAddr("::1"),
		"names", []string{"a", "b"}, "secret", secret, "held", struct{ S vault.Secret }{secret})
	want := map[string]string{
		"MSG": "member is out", "LEVEL": "WARN", "POOL": "openai", "UNTIL": "2026-01-02T03:04:05Z", "AGAIN_IN": "1m30s", "ERROR": "two\nlines",
		"SLUICE_UNIT": "agent.service", "SLUICE_LEVEL": "its own", "ADDR": "::1", "NAMES": "[a b]", "SECRET": secret.String(),
		"HELD": fmt.Sprintf("{%s}", secret), "SYSLOG_IDENTIFIER": "sluice", "SYSLOG_FACILITY": "3",
	}
	if len(*sent) != 1 {
		t.Fatalf("%d entries, want one", len(*sent))
	}
	got := (*sent)[0]
	if !maps.Equal(got.fields, want) || got.priority != journal.PriWarning {
		t.Errorf("priority %d, fields %q\nwant %d, %q", got.priority, got.fields, journal.PriWarning, want)
	}
	// What an agent can bring into the log ends no line.
	if !strings.HasPrefix(got.message, `member is out pool=openai until=2026-01-02T03:04:05.000Z again_in=1m30s error="two\nlines" unit=agent.service level="its own"`) {
		t.Errorf("the message is %s", got.message)
	}
	if strings.Contains(fmt.Sprint(got), "sk-canary") {
		t.Errorf("the entry has the secret: %v", got)
	}
}

func TestJournalPriorities(t *testing.T) {
	level := new(slog.LevelVar)
	h, sent := newEntries(level, slog.DiscardHandler)
	log := slog.New(h)
	for _, one := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelInfo + 1, slog.LevelWarn, slog.LevelError, slog.LevelError + 4} {
		log.Log(t.Context(), one, "x")
	}
	level.Set(slog.LevelDebug) // a reload
	log.Debug("x")
	var got []journal.Priority
	for _, e := range *sent {
		got = append(got, e.priority)
	}
	want := []journal.Priority{journal.PriInfo, journal.PriInfo, journal.PriWarning, journal.PriErr, journal.PriErr, journal.PriDebug}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("priorities %v, want %v", got, want)
	}
}

// TestWhatTheJournalDoesNotTake is in the daemon's standard error, whole.
func TestWhatTheJournalDoesNotTake(t *testing.T) {
	var spare bytes.Buffer
	h := newJournalHandler(slog.LevelInfo, func(string, journal.Priority, map[string]string) error { return errors.New("no such socket") },
		slog.NewJSONHandler(&spare, nil))
	slog.New(h).With("pool", "openai").WithGroup("g").Info("recovered", "member", "b")
	var record struct {
		Msg, Pool string
		G         struct{ Member string }
	}
	if err := json.Unmarshal(spare.Bytes(), &record); err != nil || record.Msg != "recovered" || record.Pool != "openai" || record.G.Member != "b" {
		t.Errorf("standard error has %q (%v)", spare.String(), err)
	}
}

// FuzzFieldName: whatever an attribute is called, journald takes the field, and nothing that it adds itself, or that has a meaning, is set.
func FuzzFieldName(f *testing.F) {
	for _, key := range []string{"pool", "", "_pid", "9", "code_file", "Priority", "message", "syslog_pid", "object_pid", "übel", "a=b\nc", strings.Repeat("x", 100)} {
		f.Add(key)
	}
	valid := regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)
	special := regexp.MustCompile(`^(MESSAGE(_ID)?|PRIORITY|CODE_.*|ERRNO|SYSLOG_.*|OBJECT_.*|COREDUMP_.*|TID|UNIT|USER_UNIT|MSG|LEVEL)$`)
	f.Fuzz(func(t *testing.T, key string) {
		if name := fieldName(key); !valid.MatchString(name) || special.MatchString(name) {
			t.Errorf("%q is the field %q", key, name)
		}
	})
}
