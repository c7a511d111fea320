package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-proxy/sluice/pool"
)

// Whatever is delivered, wherever it is killed, and however small the files are:
// the log holds, and has every acknowledged event once.
func TestAnySequence(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		p := newPlace(t)
		change := func(o *Options) {
			o.MaxSize = rapid.Int64Range(1, 3000).Draw(r, "size")
			o.Keep = -1
		}
		l := p.open(t, change)
		cursor, recorded := int64(0), map[int64]bool{}
		r.Repeat(map[string]func(*rapid.T){
			"deliver": func(r *rapid.T) {
				from := rapid.Int64Range(max(1, cursor-3), cursor+1).Draw(r, "from")
				to := from + rapid.Int64Range(0, 8).Draw(r, "more")
				var batch []pool.Event
				for _, e := range events(from, to) {
					if e.Seq > cursor || recorded[e.Seq] { // what a gap has is nowhere
						batch, recorded[e.Seq] = append(batch, e), true
					}
				}
				deliver(t, l, batch)
				cursor = max(cursor, to)
			},
			"gap": func(*rapid.T) { cursor += 5 },
			"start": func(*rapid.T) {
				_ = l.Close()
				l = p.open(t, change)
			},
			"kill": func(r *rapid.T) {
				before := read(t, p.dir)
				batch := events(cursor+1, cursor+3)
				deliver(t, l, batch)
				_ = l.Close()
				after := read(t, p.dir)
				was, is := before[currentName], after[currentName]
				torn := before
				if len(after) > len(before) && was != "" { // rotated meanwhile
					torn = after.with(headName, before[headName])
					was = ""
				}
				cut := rapid.IntRange(len(was), len(is)).Draw(r, "cut")
				torn.with(currentName, is[:cut]).write(t, p.dir)
				l = p.open(t, change)
				deliver(t, l, batch)
				for _, e := range batch {
					recorded[e.Seq] = true
				}
				cursor += 3
			},
			"": func(r *rapid.T) {
				report, err := Verify(p.dir, p.key)
				if err != nil || report.Lines != len(recorded) || l.Stats().Broken != 0 {
					r.Fatalf("%+v, %v, want %d lines; %+v", report, err, len(recorded), l.Stats())
				}
			},
		})
		_ = l.Close()
	})
}

// seeds gives a fuzz target files and heads, and returns the key and the good file.
func seeds(f *testing.F) (key []byte, good string) {
	f.Helper()
	p := newPlace(f)
	l := p.open(f, nil)
	deliver(f, l, events(1, 2))
	_ = l.Close()
	whole := read(f, p.dir)
	good = whole[currentName]
	key, err := os.ReadFile(p.key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(good), []byte(whole[headName]))
	f.Add([]byte(good[:100]), []byte{})
	f.Add([]byte(`{"prev":"`+noMAC+`","mac":"`+noMAC+`"}`+"\n"), []byte(`{"mac":"`+noMAC+`"}`+"\n"))
	f.Add([]byte("\n\n\"}\n"), []byte("null"))
	return key, good
}

// planted is a log that somebody else wrote.
func planted(t *testing.T, key, file, head []byte) place {
	t.Helper()
	p := newPlace(t)
	tree{currentName: string(file), headName: string(head)}.write(t, p.dir)
	if err := os.WriteFile(p.key, key, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// Files that anybody could have written: an answer, never a panic, and never
// "holds" for a line that was not there.
func FuzzVerify(f *testing.F) {
	key, good := seeds(f)
	f.Fuzz(func(t *testing.T, file, head []byte) {
		p := planted(t, key, file, head)
		if r, err := Verify(p.dir, p.key); err == nil && r.Lines > 0 && !bytes.HasPrefix(file, []byte(good)) {
			t.Errorf("forged lines hold: %+v", r)
		}
		if r, err := VerifyFile(p.file(currentName), p.key); err == nil && r.Lines > 2 {
			t.Errorf("forged lines hold: %+v", r)
		}
	})
}

// Whatever is there at the start, what is delivered is written.
func FuzzOpen(f *testing.F) {
	key, _ := seeds(f)
	f.Fuzz(func(t *testing.T, file, head []byte) {
		p := planted(t, key, file, head)
		l := p.open(t, nil)
		deliver(t, l, events(1, 3))
		_ = l.Close()
		all := read(t, p.dir)
		for _, e := range []string{`{"seq":1,`, `{"seq":2,`, `{"seq":3,`} {
			if !strings.Contains(fmt.Sprint(all), e) {
				t.Errorf("%s is missing", e)
			}
		}
		l = p.open(t, nil)
		deliver(t, l, events(1, 4))
		if s := l.Stats(); s.Broken != 0 || s.Lines != 1 {
			t.Errorf("a second start: %+v", s)
		}
	})
}

// What is read of a line in haste is what JSON says, whatever an event's texts are.
func TestFacts(t *testing.T) {
	t.Parallel()
	s := newSealer(make([]byte, keySize))
	tricky := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
		kindBroken, `","pool":"`, `","kind":"audit_broken","pool":"`, `,"head":9`, `","time":"`, `\`, `"`, `"head":7,"prev":"`, "a\xff\n",
	}))
	rapid.Check(t, func(r *rapid.T) {
		want := recordOf(pool.Event{
			Seq: rapid.Int64().Draw(r, "seq"), Time: start.Add(time.Duration(rapid.Int64().Draw(r, "time"))),
			Kind: pool.EventKind(tricky.Draw(r, "kind")), Pool: tricky.Draw(r, "pool"), Member: tricky.Draw(r, "member"),
			Reason: tricky.Draw(r, "reason"), Detail: tricky.Draw(r, "detail"), To: tricky.Draw(r, "to"),
		})
		want.Head, want.Prev = rapid.Uint64().Draw(r, "head"), noMAC
		var line bytes.Buffer
		mac, err := s.seal(&line, want)
		if err != nil {
			r.Fatal(err)
		}
		var whole record
		if err := json.Unmarshal(line.Bytes(), &whole); err != nil {
			r.Fatal(err)
		}
		got, gotMAC, ok := s.open(bytes.TrimSuffix(line.Bytes(), []byte("\n")))
		if !ok || gotMAC != mac || got.Seq != whole.Seq || !got.Time.Equal(whole.Time) || got.Head != whole.Head || got.Prev != noMAC {
			r.Fatalf("%+v, %v, want %+v", got, ok, whole)
		}
		if (got.Kind == kindBroken) != (whole.Kind == kindBroken) || whole.Kind == kindBroken && got != whole {
			r.Fatalf("%+v, want %+v", got, whole)
		}
	})
}
