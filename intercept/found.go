package intercept

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/sluice-proxy/sluice/bpf"
)

// found adopts the namespace that an event tells of. Its process may have ended by now, refused, and the one
// that has started it be there still. The caller holds ops.
func (in *Interceptor) found(e bpf.EventNoListener) error {
	err := in.adopt(in.live, int(e.PID))
	if errors.Is(err, errCrowded) {
		return nil
	}
	if err != nil {
		return err
	}
	in.mu.RLock()
	known := in.spaces[e.Cookie] != nil
	in.mu.RUnlock()
	if known {
		return nil
	}
	var failed []error
	for _, t := range in.attachedTargets() {
		if err := in.scan(in.live, t); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// readAgain is how long is waited after an event of the kernel's that cannot be read.
const readAgain = time.Second

// followEvents adopts the namespaces that the programs found without a listener.
func (in *Interceptor) followEvents() {
	for failed := false; ; {
		e, err := in.opts.Events.Read()
		if in.live.Err() != nil || errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			if !failed {
				failed = true
				in.opts.Log.Error("events of the kernel not readable: new namespaces are found late until they are", "error", err)
			}
			select {
			case <-time.After(readAgain):
			case <-in.live.Done():
			}
			continue
		}
		failed = false
		in.ops.Lock()
		if !in.stopped {
			if err := in.found(e); err != nil {
				in.opts.Log.Error("namespace without listener: its connects are refused", "pid", e.PID, "error", err)
			}
		}
		in.ops.Unlock()
	}
}
