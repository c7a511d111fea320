package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

const (
	defaultMaxSize = 64 << 20
	defaultKeep    = 16
)

// Options say where the log is and how much of it is kept.
type Options struct {
	// Dir holds the log and nothing else; it is made 0700 if it is not there.
	Dir string
	// KeyFile holds the key, 32 bytes, mode 0600; made at the first start.
	KeyFile string
	// MaxSize is how large a file gets, in bytes, before the next one is begun; 0 is
	// 64 MiB. One batch of events always goes into one file.
	MaxSize int64
	// Keep is how many files are kept beside the current one; 0 is 16, negative all.
	Keep int
	// Log is told of what was mended at the start; nil is nobody.
	Log *slog.Logger
	// Now is the clock for the lines that the log writes of itself; nil is time.Now.
	Now func() time.Time
}

// Stats count since Open.
type Stats struct {
	Lines        uint64 // written
	Rotations    uint64
	Errors       uint64 // batches that could not be written, and were given back
	TornBytes    uint64 // cut off at the start: written, but never acknowledged
	AdoptedLines uint64 // found whole beyond the head at the start
	Broken       uint64 // times that damage was found at the start
	Skipped      uint64 // events passed over although they are later than the last line
}

// Log is the log, open for appending. Its methods may be called from several
// goroutines; two processes must not have the same log open.
type Log struct {
	opts Options
	seal *sealer

	mu    sync.Mutex
	stats Stats
	// file is the current file; nil after an error that left it unknown what is
	// on the disk, and then the next Deliver looks.
	file    *os.File
	closed  bool
	rotated []int64
	head    head // as published
	tail    tail
}

// tail is the end of the log as it is on the disk.
type tail struct {
	lines int   // of the current file
	size  int64 // of the current file
	first int64 // seq of its first event
	last  string
	seq   int64
	time  time.Time // of the last line
}

// ErrClosed is returned by [Log.Deliver] after [Log.Close].
var ErrClosed = errors.New("audit log: closed")

// Open opens the log, makes it at the first start, and mends what a kill left: a
// line that is not finished is cut off, whole lines beyond the head are adopted.
// If the log is damaged, a line that says so is written and it goes on from there;
// [Verify] names the place. If the disk is full, Deliver says so, and mends the log
// when there is room. An error is one of the folder, or of the key.
func Open(o Options) (*Log, error) {
	if o.MaxSize == 0 {
		o.MaxSize = defaultMaxSize
	}
	if o.Keep == 0 {
		o.Keep = defaultKeep
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	key, err := openKey(o.KeyFile, o.Dir)
	if err != nil {
		return nil, err
	}
	l := &Log{opts: o, seal: newSealer(key)}
	if err := l.load(); err != nil {
		l.drop()
		o.Log.Error("audit log: not open yet, tried again with the next event", "error", err)
	}
	return l, nil
}

// Reader is the log's name among the readers of the event log.
const Reader = "audit"

// Name implements the monitor's reader.
func (l *Log) Name() string { return Reader }

// Stats returns what happened since Open.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// Deliver appends the events, in order. Those that the log has already, by their
// seq, are passed over, so that a batch may be delivered again after a kill. After
// an error nothing of the batch counts as written: deliver it again, later.
func (l *Log) Deliver(ctx context.Context, events []pool.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.deliver(events); err != nil {
		l.stats.Errors++
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}

func (l *Log) deliver(events []pool.Event) error {
	if l.file == nil {
		if err := l.load(); err != nil {
			l.drop()
			return err
		}
	}
	var records []record
	seq := l.tail.seq // of what is taken
	for _, e := range events {
		if e.Seq > seq {
			records, seq = append(records, recordOf(e)), e.Seq
		} else if !l.tail.time.IsZero() && e.Time.After(l.tail.time) {
			l.stats.Skipped++
			l.opts.Log.Warn("audit log: an event has a number that the log is past; if the database was made anew, move the log away",
				"seq", e.Seq, "last_seq", l.tail.seq, "log", l.opts.Dir)
		}
	}
	return l.append(records)
}

// append writes lines and then the head that knows them.
func (l *Log) append(records []record) error {
	if len(records) == 0 {
		return nil
	}
	var batch bytes.Buffer
	after := l.tail
	for _, r := range records {
		r.Head, r.Prev = l.head.Gen, after.last
		mac, err := l.seal.seal(&batch, r)
		if err != nil {
			return err
		}
		after.last, after.seq, after.time = mac, r.Seq, r.Time
	}
	if l.tail.first != 0 && l.tail.size+int64(batch.Len()) > l.opts.MaxSize {
		if err := l.rotate(); err != nil {
			l.drop()
			return err
		}
	}
	after.lines, after.size, after.first = l.tail.lines+len(records), l.tail.size+int64(batch.Len()), l.tail.first
	for i := 0; after.first == 0 && i < len(records); i++ {
		if records[i].Kind != kindBroken {
			after.first = records[i].Seq
		}
	}
	_, err := l.file.Write(batch.Bytes())
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		return l.undo(err)
	}
	published, err := l.publish(after)
	if err != nil {
		if published {
			l.drop()
			return err
		}
		return l.undo(err)
	}
	l.stats.Lines += uint64(len(records))
	l.expire()
	return nil
}

// undo takes back what an append left in the current file. If that fails too, the
// next Deliver finds out what is there.
func (l *Log) undo(cause error) error {
	if err := l.file.Truncate(l.tail.size); err != nil {
		l.drop()
		return errors.Join(cause, err)
	}
	return cause
}

// drop forgets the current file.
func (l *Log) drop() {
	if l.file != nil {
		_ = l.file.Close() // nothing is buffered, and what was not synced is not counted on
		l.file = nil
	}
}

// rotate gives the current file its number and begins the next one. The head does
// not change: it names the last file by its first event, whatever it is called.
func (l *Log) rotate() error {
	first := l.tail.first
	if err := os.Rename(l.path(currentName), l.path(segmentName(first))); err != nil {
		return err
	}
	l.drop()
	if err := l.create(); err != nil {
		return err
	}
	l.rotated = append(l.rotated, first)
	l.tail.lines, l.tail.size, l.tail.first = 0, 0, 0
	l.stats.Rotations++
	return nil
}

// create makes an empty current file.
func (l *Log) create() error {
	f, err := os.OpenFile(l.path(currentName), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	l.file = f
	return syncDir(l.opts.Dir)
}

// next is the head for the log that ends with t, and the rotated files that it
// still counts.
func (l *Log) next(t tail) (h head, kept []int64) {
	h = head{
		Gen: l.head.Gen + 1, Seq: t.seq, File: t.first, Lines: t.lines, Last: t.last,
		FirstFile: l.head.FirstFile, FirstPrev: l.head.FirstPrev,
	}
	kept = l.rotated
	if l.opts.Keep > 0 && len(kept) > l.opts.Keep {
		kept = kept[len(kept)-l.opts.Keep:]
		h.FirstFile, h.FirstPrev = kept[0], l.firstPrev(kept[0])
	}
	return h, kept
}

// publish writes the head for the log that ends with t. Files beyond Keep are no
// longer part of the log from then on, and can be removed.
func (l *Log) publish(t tail) (published bool, err error) {
	h, kept := l.next(t)
	data, err := l.seal.sealHead(h)
	if err != nil {
		return false, err
	}
	if published, err = replace(l.path(headName), data); err != nil {
		return published, err
	}
	l.head, l.tail, l.rotated = h, t, kept
	return true, nil
}

// writeHead publishes one head as it is.
func (l *Log) writeHead(h head) error {
	data, err := l.seal.sealHead(h)
	if err != nil {
		return err
	}
	if _, err := replace(l.path(headName), data); err != nil {
		return err
	}
	l.head = h
	return nil
}

// expire removes files that the head no longer counts. One that cannot be removed
// is tried again with the next.
func (l *Log) expire() {
	if l.head.FirstFile == 0 || l.opts.Keep < 0 {
		return
	}
	all, _, err := segments(l.opts.Dir)
	if err != nil {
		l.opts.Log.Warn("audit log: old files are not removed", "error", err)
		return
	}
	for _, first := range all {
		if first >= l.head.FirstFile {
			return
		}
		if err := os.Remove(l.path(segmentName(first))); err != nil {
			l.opts.Log.Warn("audit log: an old file is not removed", "error", err)
		}
	}
}

// Close ends it. What was delivered is on the disk already.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.drop()
	return nil
}
