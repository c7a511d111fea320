package monitor

import (
	"context"

	"github.com/sluice-proxy/sluice/monitor/notice"
	"github.com/sluice-proxy/sluice/pool"
)

// Channel is a place that notices go to.
type Channel interface {
	// Name is the channel's in logs and in the store; it never changes.
	Name() string
	// Send delivers one notice, or fails, and is then called with it again later. An
	// error may be a [RetryAfterError].
	Send(ctx context.Context, n notice.Notice) error
}

// channelReader makes a reader of the event log of a channel.
type channelReader struct{ Channel }

// Deliver sends the notice of one event, if there is one to be sent.
func (r channelReader) Deliver(ctx context.Context, events []pool.Event) error {
	for _, e := range events {
		n, ok := notice.Of(e)
		if !ok {
			continue
		}
		if err := r.Send(ctx, n); err != nil {
			return err
		}
	}
	return nil
}
