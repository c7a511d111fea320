package main

import (
	"bufio"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSpread(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		values              []float64
		median, least, most float64
	}{
		"none": {nil, 0, 0, 0}, "one": {[]float64{3}, 3, 3, 3},
		"odd": {[]float64{9, 1, 4}, 4, 1, 9}, "even": {[]float64{8, 1, 4, 2}, 3, 1, 8},
	} {
		if median, least, most := spread(test.values); median != test.median || least != test.least || most != test.most {
			t.Errorf("%s: %g, %g .. %g", name, median, least, most)
		}
	}
}

func TestRatiosAreByRound(t *testing.T) {
	t.Parallel()
	if got := ratios([]float64{2, 9, 5}, []float64{1, 3, 0}); !slices.Equal(got, []float64{2, 3}) {
		t.Errorf("%v", got)
	}
}

func TestSample(t *testing.T) {
	t.Parallel()
	var all []time.Duration
	for i := range 1000 {
		all = append(all, time.Duration(1000-i)*time.Microsecond)
	}
	s, err := newSample(all, 2*time.Second, 0)
	if err != nil || s.Count != 1000 || s.Seconds != 2 || s.P50 != 501 || s.P99 != 991 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := newSample(nil, time.Second, 0); err == nil {
		t.Error("a measurement of nothing is no error")
	}
	if s, err := newSample(nil, time.Second, 5); err != nil || s.Bytes != 5 {
		t.Errorf("a part of a body: %+v, %v", s, err)
	}
}

func TestReadAnswer(t *testing.T) {
	t.Parallel()
	whole := fmt.Sprintf("HTTP/1.1 200 OK\r\ncontent-LENGTH: %d\r\n\r\n", len(answerBody))
	for name, test := range map[string]struct {
		text string
		ok   bool
	}{
		"whole":      {whole + answerBody, true},
		"cut short":  {whole + answerBody[1:], false},
		"refused":    {"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", false},
		"other body": {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", false},
		"no length":  {"HTTP/1.1 200 OK\r\n\r\n", false},
	} {
		if err := new(clients).readAnswer(bufio.NewReader(strings.NewReader(test.text)), len(answerBody)); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// three is the outcome of a run in which net/http was unable to do one of its works.
func three() *outcome {
	o := newOutcome(plan{works: works()[:2], among: []string{directName, sluiceName, "nginx"}, rounds: 5, seconds: 1})
	for round := range 5 {
		for i, name := range o.among {
			o.Results = append(o.Results, result{
				Work: "h1-16", Contestant: name, Round: round, CPU: float64(1000 * (i + 1)), RSS: 1 << 20,
				sample: sample{Count: 10, Seconds: 1, P50: float64(10 * (i + 1)), P99: 100},
			})
		}
	}
	o.unable("nginx", "h1-1", errors.New("it ended\nand said more"))
	return o
}

func TestPublish(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "docs"), 0o755); err != nil {
		t.Fatal(err)
	}
	page := "before\n" + beginMark + "\nold\n" + endMark + "\nbehind\n"
	files := []string{filepath.Join(dir, "README.md"), filepath.Join(dir, "docs", "performance.md")}
	for _, file := range files {
		if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // what was written is replaced as well
		if err := three().publish(dir); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []string{"| sluice / nginx | 0.67 (0.67 .. 0.67) |", "nginx could not do it: it ended.\n"} {
		text, err := os.ReadFile(files[i])
		if err != nil {
			t.Fatal(err)
		}
		got := string(text)
		if !strings.HasPrefix(got, "before\n"+beginMark) || !strings.HasSuffix(got, endMark+"\nbehind\n") ||
			strings.Contains(got, "old") || !strings.Contains(got, want) {
			t.Errorf("%s:\n%s", files[i], got)
		}
	}
	svg, err := os.Open(filepath.Join(dir, "docs", "bench.svg"))
	if err != nil {
		t.Fatal(err)
	}
	defer svg.Close()
	for d := xml.NewDecoder(svg); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(files[0], []byte("no marks"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := three().publish(dir); err == nil {
		t.Error("a page without the marks is no error")
	}
}

func TestChosenWorks(t *testing.T) {
	t.Parallel()
	for names, want := range map[string]int{"": len(works()), "h1-16": 1, "small,h1-1": 3, "streams,connect": 3} {
		if got, err := chosen(works(), names); err != nil || len(got) != want {
			t.Errorf("%q: %d works, %v", names, len(got), err)
		}
	}
	if _, err := chosen(works(), "small,larger"); err == nil {
		t.Error("an unknown work is no error")
	}
}

func TestConversationIsJSONOfItsLength(t *testing.T) {
	t.Parallel()
	for _, n := range []int{100, 1000, 40000} {
		if text := conversation(n); len(text) != n && n > 200 || !json.Valid(text) {
			t.Errorf("%d bytes: %d of them, valid %v", n, len(text), json.Valid(text))
		}
	}
}
