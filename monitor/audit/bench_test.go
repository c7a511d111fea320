package audit

import (
	"context"
	"os"
	"testing"
)

// A file of the default size, read and written: what a start and verify wait for.
func BenchmarkVerify(b *testing.B) {
	p := newPlace(b)
	l := p.open(b, nil)
	for seq := int64(1); seq <= 50_000; seq += 1000 {
		deliver(b, l, events(seq, seq+999))
	}
	_ = l.Close()
	info, err := os.Stat(p.file(currentName))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	for b.Loop() {
		p.holds(b, 50_000)
	}
}

// One event at a time, on a real disk: three syncs.
func BenchmarkDeliver(b *testing.B) {
	dir := b.TempDir()
	p := place{dir: dir + "/audit", key: dir + "/audit.key"}
	l := p.open(b, nil)
	seq := int64(0)
	for b.Loop() {
		seq++
		if err := l.Deliver(context.Background(), events(seq, seq)); err != nil {
			b.Fatal(err)
		}
	}
}
