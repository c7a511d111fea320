package pool

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// Mark stands for something that an account made and that no other account knows: an
// uploaded file, a stored response, reasoning that only it can decrypt. It is the
// beginning of its SHA-256: what it stands for cannot be read from it.
type Mark [16]byte

// Clue is a mark, and where in a message it was found.
type Clue struct {
	Mark  Mark
	Field string // "previous_response_id", or "path"
}

// tieRules say what of a provider's API belongs to the account that made it.
type tieRules struct {
	paths    []string // path segments of what accounts own: /v1/SEGMENT/ID, or a verb, /v1/x:VERB
	ids      []string // keys of an answer under which it names what it made
	refs     []string // keys of a request that name that
	prefixes []string // of such names, wherever they stand in a request
	plain    []string // prefixes of names that stand for nothing: what they name is sent along with them
	sealed   []string // keys whose value can only be read by the account that made it
	itemRef  string   // type of an object whose "id" names something, "" if there is none
	tail     bool     // a name that is a path is its last two segments: files/ID
	bare     string   // segment of paths after which a name of such a provider is an ID alone
}

// tieRulesOf are the rules of a preset, nil if nothing of its API is known to be an account's.
// An "id" of a request counts by its prefix only, or in a reference: others are the agent's
// own, or of what is sent along with them.
//
// OpenAI: platform.openai.com/docs/api-reference (responses, conversations, files, batches,
// audio in chats); "encrypted_content" is bound to the organization that received it.
// Anthropic: docs.anthropic.com (files, message batches, containers, skills). Gemini:
// ai.google.dev/api (files, cached contents, batches, interactions).
func tieRulesOf(provider string) *tieRules {
	switch provider {
	case "openai", "codex":
		return &tieRules{
			paths: []string{
				"responses", "conversations", "files", "uploads", "batches", "threads", "assistants", "runs",
				"vector_stores", "containers", "jobs", "evals", "videos", "input_items", "completions",
			},
			ids: []string{"id", "output_file_id", "error_file_id", "result_files", "container_id"},
			refs: []string{
				"previous_response_id", "conversation", "file_id", "file_ids", "input_file_id", "vector_store_ids",
				"container", "assistant_id", "thread_id", "training_file",
			},
			prefixes: []string{
				"resp_", "rs_", "conv_", "file-", "file_", "upload_", "batch_", "thread_", "asst_", "run_", "vs_", "cntr_", "ftjob-", "audio_",
			},
			plain:   []string{"call_", "chatcmpl-"},
			sealed:  []string{"encrypted_content"},
			itemRef: "item_reference",
		}
	case "anthropic":
		return &tieRules{
			paths:    []string{"files", "batches", "messages", "skills"},
			ids:      []string{"id", "file_id"},
			refs:     []string{"file_id", "container"},
			prefixes: []string{"file_", "msgbatch_", "container_", "skill_"},
			plain:    []string{"msg_", "toolu_", "srvtoolu_", "mcptoolu_"},
		}
	case "gemini":
		return &tieRules{
			paths: []string{"files", "cachedContents", "batches", "batchGenerateContent", "fileSearchStores", "interactions"},
			ids:   []string{"name", "uri", "responsesFile", "id"},
			refs: []string{
				"fileUri", "file_uri", "uri", "fileName", "file_name", "cachedContent", "cached_content",
				"fileSearchStoreNames", "file_search_store_names", "previous_interaction_id",
			},
			tail: true, bare: "interactions",
		}
	}
	return nil
}

// maxClue is how long a name may be, in bytes; maxClues how many one message may hold, and
// maxKept for how many of them the memory is kept for the next message.
const (
	maxClue  = 256
	maxClues = 4096
	maxKept  = 64
)

// Clues finds, in the bytes of a request or an answer as they come, what ties it to an
// account. It is an [io.Writer] that never fails: what is not JSON, or server-sent events
// of it, has no clues.
type Clues struct {
	rules  *tieRules
	answer bool

	inside  bool // a string
	escape  int  // bytes of an escape so far, its backslash included
	unicode rune
	room    [utf8.UTFMax]byte // for what an escape stands for
	tok     []byte            // the string so far, decoded
	long    bool              // it is no name
	ended   bool              // a string ended, and it is not known yet whether it was a key

	class keyClass // of the last key
	item  Mark     // the "id" of the object at hand, if isItem
	// isItem: it has one; isRef: its type says that it refers to that.
	isItem, isRef bool
	field         string
	hash          hash.Hash // of a sealed value

	found []Clue
	taken int
}

type keyClass uint8

const (
	keyOther keyClass = iota
	keyName
	keySealed
	keyItem
	keyType
)

// begin makes c ready for the next message, in the memory that it has.
func (c *Clues) begin(t *tieRules, answer bool) {
	found := c.found[:0]
	if cap(found) > maxKept {
		found = nil // of a list, as few are
	}
	*c = Clues{rules: t, answer: answer, tok: c.tok[:0], hash: c.hash, found: found}
}

// requestClues reads what a request names, in its target first.
func (t *tieRules) requestClues(target string) *Clues {
	c := &Clues{rules: t}
	before := ""
	path, _, _ := strings.Cut(target, "?")
	for segment := range strings.SplitSeq(path, "/") {
		switch {
		case t.tail && slices.Contains(t.paths, before):
			segment, _, _ = strings.Cut(segment, ":") // custom verbs: files/ID:download
			if before != t.bare {
				segment = before + "/" + segment
			}
			c.add(segment, "path")
		case slices.Contains(t.paths, before) || hasPrefix(segment, t.prefixes):
			c.add(segment, "path")
		}
		before = segment
	}
	_, query, _ := strings.Cut(target, "?")
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, value, _ := strings.Cut(pair, "=")
		if name, err := url.QueryUnescape(value); err == nil && hasPrefix(name, t.prefixes) {
			c.add(name, key)
		}
	}
	return c
}

// owns says whether a target is where accounts make or name what is theirs.
func (t *tieRules) owns(target string) bool {
	path, _, _ := strings.Cut(target, "?")
	for more := true; more; {
		var segment string
		segment, path, more = strings.Cut(path, "/")
		_, verb, _ := strings.Cut(segment, ":")
		if slices.Contains(t.paths, segment) || (verb != "" && slices.Contains(t.paths, verb)) {
			return true
		}
	}
	return false
}

func hasPrefix(s string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return len(s) > len(p) && strings.HasPrefix(s, p) })
}

// Write implements [io.Writer].
func (c *Clues) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if c.inside {
			p = c.text(p)
		} else if rest, ok := c.whole(p); ok {
			p = rest
		} else {
			p = c.between(p)
		}
	}
	return n, nil
}

// whole takes the next string where it lies, which is what most are: short, without an escape,
// and what tells a key from a value is at hand, too.
func (c *Clues) whole(p []byte) (rest []byte, ok bool) {
	if c.ended || c.class == keySealed {
		return nil, false
	}
	begin := bytes.IndexByte(p, '"')
	if begin < 0 {
		return nil, false
	}
	s := p[begin+1:]
	end := bytes.IndexByte(s[:min(len(s), maxClue+1)], '"')
	if end < 0 || bytes.IndexByte(s[:end], '\\') >= 0 {
		return nil, false
	}
	next := end + 1
	for next < len(s) && (s[next] == ' ' || s[next] == '\t' || s[next] == '\r' || s[next] == '\n') {
		next++
	}
	if next == len(s) {
		return nil, false
	}
	if !c.answer && c.rules.itemRef != "" {
		c.objects(p[:begin])
	}
	if c.long = false; s[next] == ':' {
		c.key(s[:end])
		return s[next+1:], true
	}
	c.value(s[:end])
	return s[next:], true
}

// between goes on to the next string. The first byte after one says what it was.
func (c *Clues) between(p []byte) []byte {
	for c.ended && len(p) > 0 {
		switch b := p[0]; b {
		case ' ', '\t', '\r', '\n':
		case ':':
			c.key(c.tok)
		default:
			c.value(c.tok)
		}
		if c.ended || p[0] == ':' {
			p = p[1:]
		}
	}
	i := bytes.IndexByte(p, '"')
	if !c.answer && c.rules.itemRef != "" {
		c.objects(p[:max(i, 0)])
		if i < 0 {
			c.objects(p)
		}
	}
	if i < 0 {
		return nil
	}
	c.inside, c.escape, c.long, c.tok = true, 0, false, c.tok[:0]
	if c.class == keySealed {
		if c.hash == nil {
			c.hash = sha256.New()
		}
		c.hash.Reset()
	}
	return p[i+1:]
}

// objects looks at where objects begin and end.
func (c *Clues) objects(p []byte) {
	for _, b := range p {
		switch b {
		case '}':
			if c.isItem && c.isRef {
				c.addMark(c.item, c.rules.itemRef)
			}
			c.isItem, c.isRef = false, false
		case '{':
			c.isItem, c.isRef = false, false
		}
	}
}

// text goes on within a string.
func (c *Clues) text(p []byte) []byte {
	if c.escape > 0 {
		c.escaped(p[0])
		return p[1:]
	}
	end := bytes.IndexByte(p, '"')
	run := p
	if end >= 0 {
		run = p[:end]
	}
	if i := bytes.IndexByte(run, '\\'); i >= 0 {
		c.take(run[:i])
		c.escape = 1
		return p[i+1:]
	}
	c.take(run)
	if end < 0 {
		return nil
	}
	c.inside, c.ended = false, true
	return p[end+1:]
}

// escaped takes one byte of an escape (RFC 8259 section 7).
func (c *Clues) escaped(b byte) {
	if c.escape > 1 {
		d := strings.IndexByte("0123456789abcdef", b|0x20)
		c.unicode = c.unicode<<4 | rune(max(d, 0))
		if c.escape++; c.escape == 6 {
			c.take(utf8.AppendRune(c.room[:0], c.unicode))
			c.escape = 0
		}
		return
	}
	switch b {
	case 'u':
		c.escape, c.unicode = 2, 0
		return
	case 'n':
		b = '\n'
	case 't':
		b = '\t'
	case 'r':
		b = '\r'
	case 'b':
		b = '\b'
	case 'f':
		b = '\f'
	}
	c.escape = 0
	c.take(append(c.room[:0], b))
}

func (c *Clues) take(p []byte) {
	if c.class == keySealed {
		c.hash.Write(p)
	}
	if c.long {
		return
	}
	if c.long = len(c.tok)+len(p) > maxClue; !c.long {
		c.tok = append(c.tok, p...)
	}
}

// key ends a string that names the value after it.
func (c *Clues) key(name []byte) {
	c.ended, c.class = false, keyOther
	if c.long {
		return
	}
	names := c.rules.refs
	if c.answer {
		names = c.rules.ids
	}
	for _, k := range names {
		if k == string(name) {
			c.class, c.field = keyName, k
		}
	}
	for _, k := range c.rules.sealed {
		if k == string(name) {
			c.class, c.field = keySealed, k
		}
	}
	if c.class == keyOther && !c.answer && c.rules.itemRef != "" {
		switch string(name) {
		case "id":
			c.class = keyItem
		case "type":
			c.class = keyType
		}
	}
}

// value ends a string that is a value.
func (c *Clues) value(v []byte) {
	c.ended = false
	switch {
	case c.class == keyOther && c.answer:
	case c.class == keySealed && len(v) == 0 && !c.long: // nothing is sealed in it
	case c.class == keySealed:
		var m Mark
		copy(m[:], c.hash.Sum(nil))
		c.addMark(m, c.field)
	case c.long:
	case c.class == keyName && !prefixed(v, c.rules.plain):
		c.add(string(v), c.field)
	case !c.answer && prefixed(v, c.rules.prefixes):
		c.add(string(v), "a reference to "+string(v))
	case c.class == keyItem && len(v) > 0:
		c.item, c.isItem = markOf(v), true
	case c.class == keyType && string(v) == c.rules.itemRef:
		c.isRef = true
	}
}

func markOf(name []byte) Mark {
	sum := sha256.Sum256(name)
	return Mark(sum[:16])
}

// prefixed is hasPrefix without a copy of the string.
func prefixed(v []byte, prefixes []string) bool {
	for _, p := range prefixes {
		if len(v) > len(p) && string(v[:len(p)]) == p {
			return true
		}
	}
	return false
}

func (c *Clues) add(name, field string) {
	if c.rules.tail && strings.Contains(name, "/") {
		name, _, _ = strings.Cut(name, ":download")
		parts := strings.Split(name, "/")
		if len(parts) < 2 || !slices.Contains(c.rules.paths, parts[len(parts)-2]) {
			return
		}
		name = strings.Join(parts[len(parts)-2:], "/")
	}
	if name == "" || hasPrefix(name, c.rules.plain) {
		return
	}
	c.addMark(markOf([]byte(name)), field)
}

func (c *Clues) addMark(m Mark, field string) {
	if len(c.found) < maxClues && !slices.ContainsFunc(c.found[max(0, len(c.found)-16):], func(o Clue) bool { return o.Mark == m }) {
		c.found = append(c.found, Clue{m, field})
	}
}

// Take is what was found since it was last called.
func (c *Clues) Take() []Clue {
	fresh := c.found[c.taken:]
	c.taken = len(c.found)
	return fresh
}

// End says that no more bytes come: a string at the very end is a value.
func (c *Clues) End() {
	if c.ended {
		c.value(c.tok)
	}
}
