package exchange

import (
	"sync/atomic"
	"time"
)

// latencyBounds are the upper ends of a histogram's buckets; one more has no end.
var latencyBounds = [...]time.Duration{
	25 * time.Microsecond, 50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, time.Second,
}

// latency counts how much later answers came than without us.
type latency struct {
	buckets [len(latencyBounds) + 1]atomic.Uint64
	sum     atomic.Int64
}

// Latency is a histogram.
type Latency struct {
	Count uint64
	Sum   time.Duration
	// Below are cumulative numbers by the upper end of the bucket.
	Below map[time.Duration]uint64
}

func (l *latency) observe(d time.Duration) {
	i := 0
	for i < len(latencyBounds) && d > latencyBounds[i] {
		i++
	}
	l.buckets[i].Add(1)
	l.sum.Add(int64(d))
}

func (l *latency) snapshot() Latency {
	s := Latency{Sum: time.Duration(l.sum.Load()), Below: make(map[time.Duration]uint64, len(latencyBounds))}
	for i := range l.buckets {
		s.Count += l.buckets[i].Load()
		if i < len(latencyBounds) {
			s.Below[latencyBounds[i]] = s.Count
		}
	}
	return s
}
