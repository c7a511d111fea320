package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// hunt looks for secrets, however they are written.
type hunt struct {
	mu    sync.Mutex          // what is told comes from several servers
	forms map[string][]string // by what the secret is
	texts map[string]string   // by where they are from
}

func newHunt() *hunt { return &hunt{forms: make(map[string][]string), texts: make(map[string]string)} }

func (h *hunt) know(what, secret string) {
	if len(secret) < 8 {
		panic("too short to be told from anything else: " + what)
	}
	h.forms[what] = formsOf(secret)
}

func (h *hunt) saw(where, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.texts[where] += text + "\n"
}

// found is what is where.
func (h *hunt) found() (all []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for where, text := range h.texts {
		for what, forms := range h.forms {
			if slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(text, form) }) {
				all = append(all, what+" is in "+where)
			}
		}
	}
	slices.Sort(all)
	return all
}

// formsOf are a secret as it is, as a JSON text has it, in a URL, and in Base64 and hex,
// whatever is before and after it.
func formsOf(secret string) []string {
	all := []string{secret, url.QueryEscape(secret), url.PathEscape(secret), strings.ToLower(url.QueryEscape(secret)), hex.EncodeToString([]byte(secret))}
	for _, html := range []bool{false, true} {
		var text strings.Builder
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(html)
		if err := e.Encode(secret); err != nil {
			panic(err)
		}
		all = append(all, strings.Trim(strings.TrimSpace(text.String()), `"`))
	}
	all = append(all, strings.Trim(strconv.QuoteToASCII(secret), `"`))
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			text := encoding.EncodeToString([]byte(strings.Repeat("x", before) + secret))
			// What the bytes before and after it have no part in.
			all = append(all, text[(before*8+5)/6:(before+len(secret))*8/6])
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// The hunt would be worth nothing if it could not find.
func TestTheHuntFinds(t *testing.T) {
	t.Parallel()
	const secret = `sk-/+"&<\é~16180339`
	for what, text := range map[string]string{
		"plain": "a " + secret + " b", "JSON": `{"a":"sk-/+\"&<\\é~16180339"}`, "JSON for HTML": `{"a":"sk-/+\"\u0026\u003c\\é~16180339"}`,
		"query": "a=" + url.QueryEscape(secret), "path": "/" + url.PathEscape(secret), "lower case": strings.ToLower(url.QueryEscape(secret)),
		"a log's": "secret=" + strconv.Quote("x"+secret), "hex": hex.EncodeToString([]byte("x" + secret)),
		"Base64": base64.StdEncoding.EncodeToString([]byte(secret)), "Base64 inside": base64.StdEncoding.EncodeToString([]byte("ab" + secret + "c")),
		"Base64 of a pair": base64.StdEncoding.EncodeToString([]byte("user:" + secret)), "Base64 for URLs": base64.RawURLEncoding.EncodeToString([]byte("{\"k\":\"" + secret)),
	} {
		h := newHunt()
		h.know("it", secret)
		h.saw("there", text)
		if len(h.found()) != 1 {
			t.Errorf("%s is not found: %s", what, text)
		}
	}
	h := newHunt()
	h.know("it", secret)
	h.saw("there", secret[:len(secret)-1]+base64.StdEncoding.EncodeToString([]byte("sk-another-secret")))
	if all := h.found(); len(all) > 0 {
		t.Error(all)
	}
}

// files reads everything below a directory.
func (h *hunt) files(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		h.saw("file "+strings.TrimPrefix(path, dir), path+"\n"+string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// process reads what others see of a process and of those it has started.
func (h *hunt) process(t *testing.T, who string, pid int) {
	t.Helper()
	for _, of := range append(descendants(t, pid), pid) {
		for _, name := range []string{"cmdline", "environ", "comm"} {
			text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(of), name))
			if err != nil && of == pid {
				t.Fatal(err)
			}
			h.saw(name+" of "+who, string(text))
		}
	}
}

func descendants(t *testing.T, pid int) (all []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	parents := make(map[int]int)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		id, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		parents[id], _ = strconv.Atoi(fields[1])
	}
	for id := range parents {
		for up := parents[id]; up > 1; up = parents[up] {
			if up == pid {
				all = append(all, id)
				break
			}
		}
	}
	return all
}
