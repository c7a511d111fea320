package echo

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	key  = `sk-proj-A+b/c=31415926535897932384626433832795`
	stub = `sk-sluice-0123456789abcdef0123456789abcdef`
)

func matcher() *Matcher { return New([]Secret{{[]byte(key), []byte(stub)}}) }

// ways are those in which servers repeat a key.
func ways() map[string]string {
	ways := map[string]string{
		"plain": key, "JSON": quoted(key), "JSON with \\/": strings.ReplaceAll(key, "/", `\/`),
		"query": url.QueryEscape(key), "path": url.PathEscape(key),
		"query, lower case": strings.NewReplacer("+", "%2b", "/", "%2f", "=", "%3d").Replace(key),
	}
	for i, before := range []string{"", "a", "ab", "user:"} {
		for name, e := range map[string]*base64.Encoding{"std": base64.StdEncoding, "raw": base64.RawStdEncoding, "url": base64.URLEncoding} {
			coded := e.EncodeToString([]byte(before + key + strings.Repeat("z", i)))
			ways[fmt.Sprintf("base64 %s %d", name, i)] = coded
			ways[fmt.Sprintf("base64 %s %d in a query", name, i)] = url.QueryEscape(coded)
			ways[fmt.Sprintf("base64 %s %d with \\/", name, i)] = strings.ReplaceAll(coded, "/", `\/`)
			ways[fmt.Sprintf("base64 %s %d in \\u", name, i)] = escaped(coded, `\u%04X`, func(int, byte) bool { return true })
		}
	}
	for _, how := range []string{`\u%04x`, `\u%04X`, "%%%02x", "%%%02X"} {
		ways[how+" all"] = escaped(key, how, func(int, byte) bool { return true })
		ways[how+" what is no letter"] = escaped(key, how, func(_ int, c byte) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", rune(c))
		})
		for _, one := range []byte(`-+/=s3`) {
			ways[fmt.Sprintf("%s %c", how, one)] = escaped(key, how, func(_ int, c byte) bool { return c == one })
		}
		for n := range len(key) {
			ways[fmt.Sprintf("%s at %d", how, n)] = escaped(key, how, func(i int, _ byte) bool { return i == n })
			ways[fmt.Sprintf("%s up to %d", how, n)] = escaped(key, how, func(i int, _ byte) bool { return i < n })
		}
	}
	return ways
}

// escaped writes those characters of a text as escapes.
func escaped(text, how string, which func(i int, c byte) bool) string {
	var out strings.Builder
	for i := range len(text) {
		if which(i, text[i]) {
			fmt.Fprintf(&out, how, text[i])
		} else {
			out.WriteByte(text[i])
		}
	}
	return out.String()
}

func quoted(s string) string {
	text, _ := json.Marshal(s)
	return string(text[1 : len(text)-1])
}

// reference finds all forms of the key, slowly and in another way.
var reference = func() *regexp.Regexp {
	var forms []string
	for _, f := range matcher().forms {
		form := ""
		for _, c := range f.text {
			form += fmt.Sprintf(`(?:%s|\\u00(?i:%02x)|%%(?i:%02x)`, regexp.QuoteMeta(string(c)), c, c)
			if c == '/' {
				form += `|\\/`
			}
			form += ")"
		}
		forms = append(forms, form)
	}
	return regexp.MustCompile(strings.Join(forms, "|"))
}()

func holds(text string) bool { return reference.MatchString(text) }

func TestReplace(t *testing.T) {
	t.Parallel()
	m := matcher()
	for name, text := range ways() {
		body := `{"error":"key ` + text + ` is wrong, again: ` + text + `"}`
		got := string(m.Replace([]byte(body)))
		if holds(got) || !m.Contains([]byte(body)) {
			t.Errorf("%s: %s", name, got)
		}
		if !strings.HasPrefix(name, "base64") && got != `{"error":"key `+stub+` is wrong, again: `+stub+`"}` {
			t.Errorf("%s: %s", name, got)
		}
		if strings.HasPrefix(name, "base64") && len(got) != len(body) {
			t.Errorf("%s changed its length: %s", name, got)
		}
	}
	for _, clean := range []string{"", "s", "sk-", key[:len(key)-1], key[1:], strings.Repeat("sk-proj-", 40)} {
		if got := m.Replace([]byte(clean)); string(got) != clean || m.Contains(got) {
			t.Errorf("%q became %q", clean, got)
		}
	}
}

func TestShortSecretsAreNotLookedFor(t *testing.T) {
	t.Parallel()
	if New([]Secret{{[]byte("1234567"), nil}}) != nil || New(nil) != nil {
		t.Error("what is too short is looked for")
	}
	m := New([]Secret{{[]byte("12345678"), []byte("stub")}, {[]byte(key), []byte(stub)}})
	if got := m.Replace([]byte("0123456789 " + key)); string(got) != "0stub9 "+stub {
		t.Errorf("%s", got)
	}
}

func TestALongerSecretThatBeginsLikeAShorter(t *testing.T) {
	t.Parallel()
	m := New([]Secret{{[]byte("secret-one"), []byte("A")}, {[]byte("secret-one-and-more"), []byte("B")}})
	if got := m.Replace([]byte("secret-one-and-more secret-one-and")); string(got) != "B A-and" {
		t.Errorf("%s", got)
	}
}

// stream passes a body through in pieces of these sizes, with framing of junk between
// them if framed, as the exchange does: what is not held back goes out.
func stream(m *Matcher, body string, framed bool, sizes func() int) (out string, found int) {
	var s Stream
	s.Begin(m)
	var buf []byte
	var payload []bool // of buf: not framing
	var sent strings.Builder
	send := func(n int) {
		for i, b := range buf[:n] {
			if payload[i] {
				sent.WriteByte(b)
			} else if b != '#' {
				panic("framing was overwritten")
			}
		}
		buf, payload = buf[n:], payload[n:]
		s.Passed(n)
	}
	for rest := body; rest != ""; {
		n := min(len(rest), sizes())
		off := len(buf)
		buf = append(buf, rest[:n]...)
		for range n {
			payload = append(payload, true)
		}
		rest = rest[n:]
		s.Next(buf, off, n)
		if framed {
			buf, payload = append(buf, "###"...), append(payload, false, false, false)
		}
		send(s.Held(len(buf)))
	}
	send(len(buf))
	return sent.String(), s.Found()
}

func TestStream(t *testing.T) {
	t.Parallel()
	m := matcher()
	r := rand.New(rand.NewPCG(1, 2))
	for name, text := range ways() {
		body := "data: " + text + "\n\ndata: " + key[:20] + "\n\n" + text + text
		for _, framed := range []bool{false, true} {
			for size := 1; size < 70; size += 6 {
				got, found := stream(m, body, framed, func() int { return 1 + r.IntN(size) })
				if len(got) != len(body) || found != 3 || m.Contains([]byte(got)) || !strings.Contains(got, "\n\ndata: "+key[:20]+"\n\n") {
					t.Fatalf("%s in pieces of up to %d: %d found: %s", name, size, found, got)
				}
			}
		}
	}
}

// TestStreamSplitAnywhere cuts a body in two, at every byte.
func TestStreamSplitAnywhere(t *testing.T) {
	t.Parallel()
	m := matcher()
	for name, text := range ways() {
		body := "data: " + text + "\n"
		for at := 1; at < len(body); at++ {
			sizes := []int{len(body), at}
			next := func() int {
				n := sizes[len(sizes)-1]
				sizes = sizes[:max(1, len(sizes)-1)]
				return n
			}
			got, found := stream(m, body, at%2 == 0, next)
			if len(got) != len(body) || found != 1 || holdsSome(m, got) {
				t.Fatalf("%s cut at %d: %d found: %s", name, at, found, got)
			}
		}
	}
}

// holdsSome says whether a secret is in what went out.
func holdsSome(m *Matcher, text string) bool {
	return m.Contains([]byte(text)) || strings.Contains(text, key[4:])
}

// TestNothingIsHeldForLong: what a message ends with goes out with it.
func TestNothingIsHeldForLong(t *testing.T) {
	t.Parallel()
	m := matcher()
	for _, text := range []string{"data: x\n\n", "it is", "ask", "sk-", "x"} {
		var s Stream
		s.Begin(m)
		buf := []byte(text)
		s.Next(buf, 0, len(buf))
		if at := s.Held(len(buf)); at != len(buf) {
			t.Errorf("%q is held from %d on", text, at)
		}
	}
	var s Stream
	s.Begin(m)
	buf := []byte("data: " + key[:9])
	s.Next(buf, 0, len(buf))
	if at := s.Held(len(buf)); at != len("data: ") {
		t.Errorf("held from %d on", at)
	}
}

func FuzzStream(f *testing.F) {
	f.Add([]byte("data: "+key+"\n\n"), uint64(1), uint8(7))
	f.Add([]byte(strings.Repeat("sk-proj-", 9)+key[3:]+key), uint64(2), uint8(3))
	f.Add([]byte(base64.StdEncoding.EncodeToString([]byte("u:"+key))), uint64(3), uint8(200))
	m := matcher()
	f.Fuzz(func(t *testing.T, body []byte, seed uint64, size uint8) {
		// Shuffled parts of the key, so that much almost matches.
		r := rand.New(rand.NewPCG(seed, 1))
		text := string(body)
		for range r.IntN(4) {
			at := r.IntN(len(text) + 1)
			how, odds := []string{`\u%04x`, `\u%04X`, "%%%02x", "%%%02X"}[r.IntN(4)], r.IntN(8)
			some := escaped(key[max(0, r.IntN(2*len(key))-len(key)):], how, func(int, byte) bool { return r.IntN(8) < odds })
			text = text[:at] + some + text[at:]
		}
		got, found := stream(m, text, seed%2 == 0, func() int { return 1 + r.IntN(1+int(size)) })
		if len(got) != len(text) || m.Contains([]byte(got)) {
			t.Fatalf("%q became %q", text, got)
		}
		if m.Contains([]byte(text)) != (found > 0) || found == 0 && got != text {
			t.Fatalf("%d found in %q: %q", found, text, got)
		}
		if m.Contains([]byte(text)) != holds(text) || holds(string(m.Replace([]byte(text)))) {
			t.Fatalf("in %q: %q", text, m.Replace([]byte(text)))
		}
	})
}

func BenchmarkStream(b *testing.B) {
	long := strings.Repeat("eyJhbGciOi.", 180)
	for name, secrets := range map[string][]Secret{
		"key":     {{[]byte(key), []byte(stub)}},
		"account": {{[]byte(long), []byte(stub)}, {[]byte(key), []byte(stub)}},
	} {
		for kind, line := range map[string]string{
			"events": `data: {"type":"response.output_text.delta","delta":" some words of an answer, and more","sequence_number":12}` + "\n\n",
			"code":   `{"text":"func main() {\n\tfor i := range 10 {\n\t\tfmt.Println(\"hello\", i)\n\t}\n}\n\nMore of it is at https:\/\/caf\u00e9.example.com\/"}`,
		} {
			b.Run(name+"/"+kind, func(b *testing.B) {
				m := New(secrets)
				body := bytes.Repeat([]byte(line), 160)[:16<<10]
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				var s Stream
				s.Begin(m)
				before := cpu()
				for b.Loop() {
					s.Next(body, 0, len(body))
					s.Passed(s.Held(len(body)))
				}
				b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// cpu is the processor time that this process has had.
func cpu() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
