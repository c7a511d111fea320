package intercept

import "time"

// sweep removes flows of clients that closed before their connection was accepted, and says who wanted more of them than it may have.
func (in *Interceptor) sweep() {
	every := time.NewTicker(sweepEvery)
	defer every.Stop()
	f := new(flooding)
	in.compare(f)
	for {
		select {
		case <-in.live.Done():
			return
		case <-every.C:
		}
		if _, err := in.opts.Flows.Sweep(sweepAge); err != nil {
			in.opts.Log.Error("flows not swept", "error", err)
		}
		if err := in.sweepKept(); err != nil {
			in.opts.Log.Error("kept connections not swept", "error", err)
		}
		in.tellFlooding(f)
	}
}

// flooding is whose connects the programs have refused because as many of the same target's wait to be accepted as may.
type flooding struct {
	refused map[uint64]uint64 // connects since the attach, by cgroup id
	lately  map[uint64]bool   // some of them between the last two looks
}

// compare looks, and returns how many were refused since the look before.
func (in *Interceptor) compare(f *flooding) map[uint64]uint64 {
	refused, err := in.opts.Flows.SharesRefused()
	if err != nil {
		in.opts.Log.Error("whose connects were refused cannot be told", "error", err)
		return nil
	}
	more := make(map[uint64]uint64)
	for id, n := range refused {
		was := f.refused[id]
		if n < was { // detached and attached again, which begins anew
			was = 0
		}
		if n > was {
			more[id] = n - was
		}
	}
	f.refused = refused
	return more
}

// tellFlooding logs a target once, until there was a look in which none of its connects had been refused.
func (in *Interceptor) tellFlooding(f *flooding) {
	more, lately := in.compare(f), make(map[uint64]bool)
	for id, n := range more {
		lately[id] = true
		if t, ok := in.owner(id); ok && !f.lately[id] {
			in.opts.Log.Warn("connects are refused: as many of their target's wait to be accepted as it may have", "target", t.ID, "connects", n)
		}
	}
	f.lately = lately
}
