package main

import (
	"bufio"
	"fmt"
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
	s, err := newSample(all, 2*time.Second)
	if err != nil || s.Count != 1000 || s.Seconds != 2 || s.P50 != 501 || s.P99 != 991 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := newSample(nil, time.Second); err == nil {
		t.Error("a measurement of nothing is no error")
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
		if err := readAnswer(bufio.NewReader(strings.NewReader(test.text))); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
