package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThreatModel holds each sentence of the page to the tests that it names.
func TestThreatModel(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	files := testFiles(t)
	exists := func(name string) bool {
		function, sub, nested := strings.Cut(name, "/")
		for _, text := range files {
			if !strings.Contains(text, "func "+function+"(t *testing.T)") {
				continue
			}
			// A subtest's name is in a string of the file, as a key or an argument.
			if !nested || strings.Contains(text, `"`+sub+`"`) {
				return true
			}
		}
		return false
	}
	named := regexp.MustCompile("`(Test[^`]+)`")
	sentences := 0
	for line := range strings.SplitSeq(string(page), "\n") {
		tests := named.FindAllStringSubmatch(line, -1)
		if strings.HasPrefix(line, "- ") {
			if sentences++; len(tests) == 0 {
				t.Errorf("no test is named for: %s", line)
			}
		}
		for _, test := range tests {
			if !exists(test[1]) {
				t.Errorf("there is no test %s", test[1])
			}
		}
	}
	if sentences < 30 {
		t.Errorf("only %d sentences", sentences)
	}
}
