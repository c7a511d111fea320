package main

import (
	"log/slog"

	"github.com/coreos/go-systemd/v22/journal"
)

// newLog writes to standard error, as text or JSON; where the journal reads that and nothing else is asked for, to the journal itself, with
// fields, and what that does not take as JSON to standard error.
func newLog(cfg config, level slog.Leveler, e env) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	switch {
	case cfg.LogFormat == "json":
		return slog.New(slog.NewJSONHandler(e.stderr, options))
	case cfg.LogFormat == "auto" && journalReads(e.stderr):
		return slog.New(newJournalHandler(level, journal.Send, slog.NewJSONHandler(e.stderr, options)))
	}
	return slog.New(slog.NewTextHandler(e.stderr, options))
}

func logLevel(cfg config) slog.Level {
	var level slog.Level
	// The configuration has been checked: its words are slog's.
	_ = level.UnmarshalText([]byte(cfg.LogLevel))
	return level
}
