package main

import "log/slog"

// newLog writes to standard error: for people as text, for the journal as JSON.
func newLog(cfg config, level slog.Leveler, e env) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" || (cfg.LogFormat == "auto" && e.getenv("JOURNAL_STREAM") != "") {
		return slog.New(slog.NewJSONHandler(e.stderr, options))
	}
	return slog.New(slog.NewTextHandler(e.stderr, options))
}

func logLevel(cfg config) slog.Level {
	var level slog.Level
	// The configuration has been checked: its words are slog's.
	_ = level.UnmarshalText([]byte(cfg.LogLevel))
	return level
}
