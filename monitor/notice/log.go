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
	l.Logger.LogAttrs(ctx, slog.LevelInfo, n.Text, slog.Int64("seq", n.Event.Seq), slog.String("kind", string(n.Event.Kind)))
	return nil
}
