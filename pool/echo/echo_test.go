package echo

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
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

// holds says whether a form of a secret is in a text, slowly and in another way: by trying
// everything everywhere.
func holds(m *Matcher, text string) bool {
	for at := range len(text) {
		if slices.ContainsFunc(m.forms, func(f form) bool { return isWritten(text[at:], string(f.text)) }) {
			return true
		}
	}
	return false
}

func isWritten(text, form string) bool {
	if form == "" || text == "" {
		return form == ""
	}
	c, digits := form[0], "0123456789abcdef"
	hex := string([]byte{digits[c>>4], digits[c&15]})
	if text[0] == c && isWritten(text[1:], form[1:]) {
		return true
	}
	if strings.HasPrefix(text, `\u00`) && len(text) >= 6 && strings.EqualFold(text[4:6], hex) && isWritten(text[6:], form[1:]) {
		return true
	}
	if text[0] == '%' && len(text) >= 3 && strings.EqualFold(text[1:3], hex) && isWritten(text[3:], form[1:]) {
		return true
	}
	return strings.IndexByte(`/"\`, c) >= 0 && strings.HasPrefix(text, `\`+form[:1]) && isWritten(text[2:], form[1:])
}

func TestReplace(t *testing.T) {
	t.Parallel()
	m := matcher()
	for name, text := range ways() {
		body := `{"error":"key ` + text + ` is wrong, again: ` + text + `"}`
		got := string(m.Replace([]byte(body)))
		if holds(m, got) || !m.Contains([]byte(body)) {
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

// TestAMatcherLeavesNothingOfASecret: what it has made of one is overwritten when nobody has
// it any more, and the secret itself is not, which is somebody else's.
func TestAMatcherLeavesNothingOfASecret(t *testing.T) {
	t.Parallel()
	secret := []byte(key)
	m := New([]Secret{{secret, []byte(stub)}})
	at := make(map[uintptr]string)
	for _, f := range m.forms[1:] {
		at[uintptr(unsafe.Pointer(&f.text[0]))] = string(f.text)
	}
	runtime.GC()
	if !m.Contains([]byte(key)) {
		t.Fatal("overwritten in use")
	}
	m = nil
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	for end := time.Now().Add(20 * time.Second); len(at) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d forms are still there", len(at))
		}
		runtime.GC()
		for p, text := range at {
			now := make([]byte, len(text))
			if _, err := memory.ReadAt(now, int64(p)); err != nil {
				t.Fatal(err)
			}
			if string(now) != text {
				delete(at, p)
			}
		}
	}
	if string(secret) != key {
		t.Error("the secret itself was overwritten")
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

// odd are secrets of which parts look like escapes, or which are hardly longer than a group.
var odd = []string{key, `p%41ss"w\ord/%2541\u0041-\"`, `12345678`, `%25%2541%`, `\\/\/"\\"/`, "schl\u00fcssel-geheim\u00e9", `u0041u0041`}

// mixed writes some characters of a text as escapes of any kind.
func mixed(r *rand.Rand, text string) string {
	var out strings.Builder
	odds := r.IntN(9)
	for i := range len(text) {
		c := text[i]
		switch how := r.IntN(6); {
		case r.IntN(8) >= odds:
			out.WriteByte(c)
		case how > 3 && strings.IndexByte(`/"\`, c) >= 0:
			out.WriteString(`\` + string(c))
		default:
			fmt.Fprintf(&out, []string{`\u%04x`, `\u%04X`, "%%%02x", "%%%02X"}[how%4], c)
		}
	}
	return out.String()
}

func FuzzStream(f *testing.F) {
	f.Add([]byte("data: "+key+"\n\n"), uint64(1), uint8(7))
	f.Add([]byte(strings.Repeat("sk-proj-", 9)+key[3:]+key), uint64(2), uint8(3))
	f.Add([]byte(base64.StdEncoding.EncodeToString([]byte("u:"+key))), uint64(3), uint8(200))
	var all []*Matcher
	for _, secret := range odd {
		m := New([]Secret{{[]byte(secret), bytes.Repeat([]byte("~"), 400)}})
		for _, f := range m.forms {
			clear(f.same) // what goes there must not happen to be the end of what is before it
		}
		all = append(all, m)
	}
	f.Fuzz(func(t *testing.T, body []byte, seed uint64, size uint8) {
		r := rand.New(rand.NewPCG(seed, 1))
		which := r.IntN(len(odd))
		m := all[which]
		// Shuffled parts of a form, so that much almost matches.
		text := string(body)
		for range r.IntN(4) {
			at := r.IntN(len(text) + 1)
			form := string(m.forms[r.IntN(len(m.forms))].text)
			some := mixed(r, form[max(0, r.IntN(2*len(form))-len(form)):])
			text = text[:at] + some + text[at:]
		}
		got, found := stream(m, text, seed%2 == 0, func() int { return 1 + r.IntN(1+int(size)) })
		if len(got) != len(text) || m.Contains([]byte(got)) {
			t.Fatalf("%q: %q became %q", odd[which], text, got)
		}
		if m.Contains([]byte(text)) != (found > 0) || found == 0 && got != text {
			t.Fatalf("%q: %d found in %q: %q", odd[which], found, text, got)
		}
		if m.Contains([]byte(text)) != holds(m, text) || holds(m, string(m.Replace([]byte(text)))) {
			t.Fatalf("%q: in %q: %q", odd[which], text, m.Replace([]byte(text)))
		}
	})
}

// TestMixedEscapes writes secrets in many ways at once, in pieces of any size.
func TestMixedEscapes(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for _, secret := range odd {
		m := New([]Secret{{[]byte(secret), []byte("~~~")}})
		for range 500 {
			form := string(m.forms[r.IntN(len(m.forms))].text)
			text := mixed(r, form)
			if r.IntN(2) == 0 {
				text = mixed(r, form[:r.IntN(len(form))]) + text
			}
			if !holds(m, text) || !m.Contains([]byte(text)) {
				t.Fatalf("%q is not found in %q", secret, text)
			}
			if got, found := stream(m, text+" ", r.IntN(2) == 0, func() int { return 1 + r.IntN(20) }); found == 0 || m.Contains([]byte(got)) {
				t.Fatalf("%q: %d found in %q: %q", secret, found, text, got)
			}
		}
	}
}

// TestFewBytesAreLookedAt holds the sieve to what makes it cheap, by count: few samples,
// and few of them that it cannot tell about.
func TestFewBytesAreLookedAt(t *testing.T) {
	t.Parallel()
	for name, secrets := range secrets() {
		m := New(secrets)
		if m.stride < 44 {
			t.Errorf("%s: a sample every %d bytes", name, m.stride)
		}
		for kind, p := range bodies() {
			samples, hits, asked := 0, 0, 0
			for q := reach; q+gram <= len(p); q += m.stride {
				samples++
				if g := binary.LittleEndian.Uint64(p[q:]); ((g-m.sieve.low)|g)&m.sieve.outside == 0 {
					asked++
				}
				if m.sieve.pass(p[:q+gram], q, m.stride) == q {
					hits++
				}
			}
			share := 0.05
			if strings.Contains(kind, "Chinese") { // every character is an escape
				share = 0.1
			}
			if most := map[string]int{"events": samples / 2, "binary": samples / 50}[kind]; most > 0 && asked > most {
				t.Errorf("%s: the table is asked for %d of %d samples of %s", name, asked, samples, kind)
			}
			if float64(hits) > share*float64(samples) {
				t.Errorf("%s: the sieve holds back %d of %d samples of %s", name, hits, samples, kind)
			}
		}
	}
}

// random is a text of n characters as providers make them.
func random(n int) string {
	r := rand.New(rand.NewPCG(5, 7))
	out := make([]byte, n)
	for i := range out {
		out[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[r.IntN(64)]
	}
	return string(out)
}

// secrets are such as members have.
func secrets() map[string][]Secret {
	return map[string][]Secret{
		"key":     {{[]byte("sk-proj-" + random(156)), []byte(stub)}},
		"old key": {{[]byte("sk-" + random(48)), []byte(stub)}},
		"account": {{[]byte("eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9." + random(1800)), []byte(stub)}, {[]byte("rt_" + random(90)), []byte(stub)}},
	}
}

// bodies are 64 KiB of what goes by.
func bodies() map[string][]byte {
	fill := func(line string) []byte { return bytes.Repeat([]byte(line), 64<<10/len(line)+1)[:64<<10] }
	noise, code := make([]byte, 64<<10), make([]byte, 48<<10)
	r := rand.New(rand.NewPCG(8, 9))
	for _, b := range [][]byte{noise, code} {
		for i := range b {
			b[i] = byte(r.Uint32())
		}
	}
	numbers := ""
	for range 6000 {
		numbers += fmt.Sprintf("%.8f,", r.Float64()*2-1)
	}
	return map[string][]byte{
		"events":         fill(`data: {"type":"response.output_text.delta","delta":" some words of an answer, and more","sequence_number":12}` + "\n\n"),
		"code":           fill(`{"text":"func main() {\n\tfor i := range 10 {\n\t\tfmt.Println(\"hello\", i)\n\t}\n}\n\nMore of it is at https:\/\/caf\u00e9.example.com\/"}`),
		"binary":         noise,
		"base64":         []byte(base64.StdEncoding.EncodeToString(code)),
		"numbers":        fill(numbers),
		"Chinese in \\u": fill(`"\u4f60\u597d\uff0c\u4e16\u754c\u3002",`),
		"Chinese in %":   fill("q=%E4%BD%A0%E5%A5%BD%E4%B8%96%E7%95%8C&"),
	}
}

func BenchmarkStream(b *testing.B) {
	for name, secrets := range secrets() {
		for kind, body := range bodies() {
			b.Run(name+"/"+kind, func(b *testing.B) {
				m := New(secrets)
				body := body[:16<<10]
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
