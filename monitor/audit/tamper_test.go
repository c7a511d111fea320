package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// threeFiles is a log of 12 lines in two rotated files and the current one.
func threeFiles(t *testing.T) (place, tree) {
	t.Helper()
	p := newPlace(t)
	l := p.open(t, func(o *Options) { o.MaxSize = 1600 })
	for seq := int64(1); seq <= 12; seq += 2 {
		deliver(t, l, events(seq, seq+1))
	}
	_ = l.Close()
	if r := p.holds(t, 12); r.Files != 3 {
		t.Fatalf("%+v: want 3 files", r)
	}
	return p, read(t, p.dir)
}

// Each byte of each file, the head too, changed in three ways.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	p, whole := threeFiles(t)
	for name, data := range whole {
		for i := range len(data) {
			for _, other := range []byte{data[i] ^ 1, data[i] ^ 0x20, '\n'} {
				if other == data[i] {
					continue
				}
				if err := os.WriteFile(p.file(name), []byte(data[:i]+string(other)+data[i+1:]), 0o600); err != nil {
					t.Fatal(err)
				}
				b := p.broken(t)
				if line := 1 + strings.Count(data[:i], "\n"); b.File != p.file(name) || b.Line != line {
					t.Fatalf("byte %d of %s, in line %d, became %q: %v", i, name, line, other, b)
				}
			}
		}
		if err := os.WriteFile(p.file(name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.holds(t, 12)
}

// Each file, the head too, cut at each byte.
func TestEveryCut(t *testing.T) {
	t.Parallel()
	p, whole := threeFiles(t)
	rotated, _, err := segments(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range whole {
		for i := range len(data) {
			if err := os.WriteFile(p.file(name), []byte(data[:i]), 0o600); err != nil {
				t.Fatal(err)
			}
			b := p.broken(t)
			file, line := p.file(name), 1+strings.Count(data[:i], "\n")
			if first, ok := segmentFirst(name); ok && (i == 0 || data[i-1] == '\n') {
				// A whole line is missing: it shows where the next file begins.
				file, line = p.file(currentName), 1
				if first == rotated[0] {
					file = p.file(segmentName(rotated[1]))
				}
			}
			if b.File != file || b.Line != line {
				t.Fatalf("%s cut at %d: %v, want %s:%d", name, i, b, file, line)
			}
		}
		if err := os.WriteFile(p.file(name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.holds(t, 12)
}

// swapped has two lines, counted from 0, in each other's place.
func swapped(data string, a, b int) string {
	l := strings.SplitAfter(data, "\n")
	l[a], l[b] = l[b], l[a]
	return strings.Join(l, "")
}

func dropped(data string, line int) string {
	l := strings.SplitAfter(data, "\n")
	return strings.Join(append(l[:line:line], l[line+1:]...), "")
}

// Every tampering is noticed and named, by Verify as it is, and also after sluice
// was started on it and went on.
func TestTampering(t *testing.T) {
	t.Parallel()
	p, whole := threeFiles(t)
	rotated, _, err := segments(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	first, second := segmentName(rotated[0]), segmentName(rotated[1])
	_, otherTree := threeFiles(t)
	deliver(t, p.open(t, nil), events(13, 14))
	longer := read(t, p.dir)

	type tampering struct {
		name string
		tree tree
		file string
		line int
	}
	cases := []tampering{
		{"first file removed", whole.without(first), second, 1},
		{"second file removed", whole.without(second), currentName, 1},
		{"both removed", whole.without(first).without(second), currentName, 1},
		{"current removed", whole.without(currentName), currentName, 1},
		{"head removed", whole.without(headName), headName, 1},
		{"all but the head removed", tree{headName: whole[headName]}, currentName, 1},
		{"everything removed", tree{}, headName, 1},
		{"head emptied", whole.with(headName, ""), headName, 1},
		{"old current put back", longer.with(currentName, whole[currentName]), currentName, 5},
		{"files renamed", whole.without(first).with(segmentName(rotated[0]+1), whole[first]), segmentName(rotated[0] + 1), 1},
		{"file of another log", whole.with(second, otherTree[second]), second, 1},
		{"head of another log", whole.with(headName, otherTree[headName]), headName, 1},
		{"other log", otherTree, first, 1},
		{"a file twice", whole.with(segmentName(rotated[1]+1), whole[second]), segmentName(rotated[1] + 1), 1},
		{"lines put at the end", whole.with(currentName, whole[currentName]+whole[currentName]), currentName, 5},
		{"swapped over files", whole.with(first, whole[second]).with(second, whole[first]), first, 1},
	}
	for _, name := range []string{first, second, currentName} {
		for i := range 4 {
			file, line := name, i+1
			if i == 3 && name == first { // the last line: it shows at the beginning of the next file
				file, line = second, 1
			} else if i == 3 && name == second {
				file, line = currentName, 1
			}
			cases = append(cases, tampering{fmt.Sprintf("%s line %d deleted", name, i+1), whole.with(name, dropped(whole[name], i)), file, line})
			for j := range i {
				cases = append(cases, tampering{
					fmt.Sprintf("%s lines %d and %d swapped", name, j+1, i+1), whole.with(name, swapped(whole[name], j, i)), name, j + 1,
				})
			}
		}
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			tc.tree.write(t, p.dir)
			b := p.broken(t)
			if b.File != p.file(tc.file) || b.Line != tc.line {
				t.Errorf("%v, want %s:%d", b, tc.file, tc.line)
			}
			l := p.open(t, nil)
			deliver(t, l, events(13, 20))
			_ = l.Close()
			p.broken(t)
			l = p.open(t, nil)
			deliver(t, l, events(20, 30))
			if s := l.Stats(); s.Broken != 0 || s.Lines != 10 {
				t.Errorf("a second start after the damage: %+v", s)
			}
			_ = l.Close()
			p.broken(t)
		})
	}
}

// A head from before the last one is put back; lines are as they were.
func TestOldHead(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	l := p.open(t, func(o *Options) { o.MaxSize = 1600 })
	var heads []string
	for seq := int64(1); seq <= 12; seq++ {
		heads = append(heads, read(t, p.dir)[headName])
		deliver(t, l, events(seq, seq))
	}
	_ = l.Close()
	whole := read(t, p.dir)
	for i, old := range heads {
		whole.with(headName, old).write(t, p.dir)
		if i == len(heads)-1 {
			p.holds(t, 12) // just what a kill before the last head leaves, and nothing is lost
			continue
		}
		b := p.broken(t)
		if b.File != p.file(headName) && b.File != p.file(segmentName(1)) {
			t.Errorf("head %d: %v", i, b)
		}
		l := p.open(t, nil)
		deliver(t, l, events(1, 13))
		if s := l.Stats(); s.Lines != 2 || s.Broken != 1 { // the mark of the damage, and 13
			t.Errorf("head %d: %+v", i, s)
		}
		_ = l.Close()
		if b := p.broken(t); b.Line != 1 || !strings.HasSuffix(b.File, ".head") {
			t.Errorf("head %d after a start: %v", i, b)
		}
	}
}

// A wrong key of the right size proves nothing, and stops nothing.
func TestWrongKey(t *testing.T) {
	t.Parallel()
	p, _ := threeFiles(t)
	if err := os.WriteFile(p.key, []byte(strings.Repeat("k", keySize)), 0o600); err != nil {
		t.Fatal(err)
	}
	want := p.file(segmentName(1))
	if b := p.broken(t); b.File != want || b.Line != 1 || !strings.Contains(b.Reason, "another key") {
		t.Errorf("%v", b)
	}
	deliver(t, p.open(t, nil), events(13, 14))
	if b := p.broken(t); b.File != want || b.Line != 1 {
		t.Errorf("%v", b)
	}
}

// What was broken is still there, byte for byte, and verify names it.
func TestKeptAside(t *testing.T) {
	t.Parallel()
	p, whole := threeFiles(t)
	bad := strings.Replace(whole[currentName], `"member":"a"`, `"member":"x"`, 1)
	whole.with(currentName, bad).write(t, p.dir)
	l := p.open(t, nil)
	deliver(t, l, events(9, 14))
	if s := l.Stats(); s.Broken != 1 || s.Lines != 3 {
		t.Errorf("%+v", s)
	}
	b := p.broken(t)
	if data, err := os.ReadFile(b.File); err != nil || string(data) != bad || b.Line != 1 || filepath.Dir(b.File) != p.dir {
		t.Errorf("%v: %v", b, err)
	}
	if !strings.Contains(b.Reason, "found by sluice at 2026-11-23T22:10:00Z") {
		t.Errorf("%v", b)
	}
	after := read(t, p.dir)
	for name, data := range whole {
		if _, rotated := segmentFirst(name); rotated && after[name] != data {
			t.Errorf("%s was changed", name)
		}
	}
}
