package intercept

import (
	"context"
	"errors"
)

// shutdown ends everything in the order that loses the least: what is not accepted yet stays in the
// backlog, which the FDStore keeps; what is accepted is served.
func (in *Interceptor) shutdown() error {
	in.ops.Lock()
	in.stopped = true
	in.ops.Unlock()
	in.halt()
	err := in.opts.Events.Close() // wakes followEvents
	for _, s := range in.allSpaces() {
		s.stopListening()
	}
	in.tasks.Wait() // no accept from here on
	in.opts.Exchange.Drain()
	drain, cancel := context.WithTimeout(context.Background(), in.opts.Drain)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		in.conns.Wait()
	}()
	select {
	case <-ended:
	case <-drain.Done():
	}
	drained := in.opts.Exchange.Shutdown(drain)
	in.cut()
	<-ended
	in.pipes.Close()
	for _, s := range in.allSpaces() {
		if s.links != nil {
			s.links.Stop()
		}
		s.home.release()
	}
	if drained != nil && !errors.Is(drained, context.DeadlineExceeded) {
		err = errors.Join(err, drained)
	}
	return err
}
