package notice

import (
	"context"
	"log/slog"
)

// Log sends notices to the daemon's log.
type Log struct{ Logger *slog.Logger }

// Name is "log".
func (Log) Name() string { return "log" }

// Send never fails: who reads the log is not known here.
func (l Log) Send(ctx context.Context, n Notice) error {
	attrs := []slog.Attr{slog.Int64("seq", n.Event.Seq), slog.String("kind", string(n.Event.Kind))}
	if n.Event.Pool != "" {
		attrs = append(attrs, slog.String("pool", n.Event.Pool))
	}
	if n.Event.Member != "" {
		attrs = append(attrs, slog.String("member", n.Event.Member))
	}
	l.Logger.LogAttrs(ctx, slog.LevelInfo, n.Text, attrs...)
	return nil
}
