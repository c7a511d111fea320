package audit

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Files of different moments of one log, some gone, some cut, some with bytes at
// their end: what is verified has no event less than the newest file says, and a
// log that is started on it goes on, writes what is delivered, and is then sound
// in itself: the next start finds no further damage.
func TestAnyMixture(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	l := p.open(t, func(o *Options) { o.MaxSize = 1300 })
	moments := []tree{read(t, p.dir)}
	const last = 14
	for seq := int64(1); seq <= last; seq++ {
		deliver(t, l, events(seq, seq))
		moments = append(moments, read(t, p.dir))
	}
	_ = l.Close()
	names := keys(moments[last])
	rapid.Check(t, func(r *rapid.T) {
		mixed := tree{}
		for _, name := range names {
			at := rapid.IntRange(last-4, last).Draw(r, "moment of "+name)
			if data, ok := moments[at][name]; ok {
				mixed[name] = data
			}
		}
		for range rapid.IntRange(0, 2).Draw(r, "changes") {
			name := rapid.SampledFrom(names).Draw(r, "file")
			data, ok := mixed[name]
			switch rapid.SampledFrom([]string{"cut", "extend", "remove"}).Draw(r, "change") {
			case "cut":
				if ok {
					mixed[name] = data[:rapid.IntRange(0, len(data)).Draw(r, "to")]
				}
			case "extend":
				if ok {
					mixed[name] = data + rapid.SampledFrom([]string{"{", "\x00\x00", "\n", "{}\n", data}).Draw(r, "by")
				}
			case "remove":
				delete(mixed, name)
			}
		}
		mixed.write(t, p.dir)
		report, err := Verify(p.dir, p.key)
		if err == nil {
			checkWhole(r, mixed, report)
		}
		// What was acknowledged before is not delivered again.
		for start := range 2 {
			l := p.open(t, func(o *Options) { o.MaxSize, o.Keep = 1300, -1 })
			from := int64(last + 1 + start)
			deliver(t, l, events(from, from+1))
			s := l.Stats()
			_ = l.Close()
			if (start > 0 || err == nil) && s.Broken != 0 || start == 0 && err != nil && s.Broken == 0 && rotatedWhole(mixed, moments[last]) {
				r.Fatalf("start %d on %v: %+v", start, err, s)
			}
		}
		text := fmt.Sprint(read(t, p.dir))
		for seq := int64(last + 1); seq <= last+3; seq++ {
			if n := strings.Count(text, fmt.Sprintf(`{"seq":%d,"time":"%s","kind":"cred_failover"`, seq, event(seq).Time.Format("2006-01-02T15:04:05Z"))); n != 1 {
				r.Fatalf("event %d is there %d times", seq, n)
			}
		}
		if _, again := Verify(p.dir, p.key); (again == nil) != (err == nil) {
			r.Fatalf("%v before the start, %v after", err, again)
		}
	})
}

// checkWhole: a log that is said to hold has all events to its last one, and that
// is what its head says, or the batch after it.
func checkWhole(r *rapid.T, mixed tree, report Report) {
	text := fmt.Sprint(mixed)
	for seq := int64(1); seq <= report.LastSeq; seq++ {
		if !strings.Contains(text, fmt.Sprintf(`{"seq":%d,"time"`, seq)) {
			r.Fatalf("%+v holds without event %d", report, seq)
		}
	}
	if !strings.Contains(mixed[headName], fmt.Sprintf(`"seq":%d,`, report.LastSeq)) &&
		!strings.Contains(mixed[headName], fmt.Sprintf(`"seq":%d,`, report.LastSeq-1)) {
		r.Fatalf("%+v holds, with head %s", report, mixed[headName])
	}
}

// rotatedWhole says whether the damage can only be where a start looks: in the
// current file and the head. A rotated file is only looked at by Verify.
func rotatedWhole(mixed, whole tree) bool {
	for name, data := range whole {
		if _, ok := segmentFirst(name); ok && mixed[name] != data {
			return false
		}
	}
	return true
}
