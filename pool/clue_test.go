package pool

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
)

func mark(name string) Mark {
	sum := sha256.Sum256([]byte(name))
	return Mark(sum[:16])
}

func TestClues(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("gAAAAB", 20_000)
	for _, c := range []struct {
		name, provider string
		answer         bool
		target, body   string
		want           []string // names whose marks are found
	}{
		{"previous response", "openai", false, "/v1/responses", `{"model":"m","previous_response_id":"resp_1","input":"hi"}`, []string{"resp_1"}},
		{"after the input", "openai", false, "/v1/responses", `{"input":[{"role":"user","content":"\"previous_response_id\":\"resp_2\""}], "previous_response_id" : "resp_1" }`, []string{"resp_1"}},
		{"no id at all", "openai", false, "/v1/responses", `{"previous_response_id":null,"input":"resp_1"}`, []string{"resp_1"}}, // known to be made by somebody, or nobody
		{"encrypted reasoning", "codex", false, "/backend-api/codex/responses", `{"input":[{"type":"reasoning","encrypted_content":"` + long + `"},{"role":"user"}]}`, []string{long}},
		{"escaped", "openai", false, "/v1/responses", `{"encrypted_content":"a\/b\u002bc","previous_response_id":"resp\u005f1"}`, []string{"a/b+c", "resp_1"}},
		{"file in a chat", "openai", false, "/v1/chat/completions", `{"messages":[{"content":[{"type":"file","file":{"file_id":"file-abc"}}]}]}`, []string{"file-abc"}},
		{"files in a list", "openai", false, "/v1/vector_stores", `{"file_ids":["file-a","file-b"],"name":"n"}`, []string{"file-a", "file-b"}},
		{"in the path", "openai", false, "/v1/responses/resp_1?stream=true", "", []string{"resp_1"}},
		{"file in the path", "anthropic", false, "/v1/files/file_011/content", "", []string{"file_011"}},
		{"tool call is nobody's", "openai", false, "/v1/chat/completions", `{"messages":[{"tool_calls":[{"id":"call_1"}],"tool_call_id":"call_1"}]}`, nil},
		{"gemini", "gemini", false, "/v1beta/models/m:generateContent", `{"contents":[{"parts":[{"file_data":{"file_uri":"https://generativelanguage.googleapis.com/v1beta/files/abc"}}]}],"cachedContent":"cachedContents/x"}`, []string{"files/abc", "cachedContents/x"}},
		{"gemini path", "gemini", false, "/v1beta/files/abc", "", []string{"files/abc"}},
		{"response", "openai", true, "/v1/responses", `{"id":"resp_1","output":[{"type":"reasoning","id":"rs_1","encrypted_content":"xyz"},{"id":"msg_1"}]}`, []string{"resp_1", "rs_1", "msg_1", "xyz"}},
		{"stream", "openai", true, "/v1/responses", "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\"}}\n\ndata: {\"response\":{\"id\":\"resp_1\"}}\n\n", []string{"resp_1"}},
		{"upload", "openai", true, "/v1/files", `{"object":"file","id":"file-abc","filename":"x"}`, []string{"file-abc"}},
		{"gemini upload", "gemini", true, "/upload/v1beta/files", `{"file":{"name":"files/abc","displayName":"d","uri":"https://g/v1beta/files/abc"}}`, []string{"files/abc"}},
		{"empty reasoning is nobody's", "openai", false, "/v1/responses", `{"input":[{"type":"reasoning","encrypted_content":""}]}`, nil},
		{"empty reasoning is not made", "openai", true, "/v1/responses", `{"id":"resp_1","item":{"encrypted_content":"","content":[]}}`, []string{"resp_1"}},
		{"an id of the agent's own", "openai", false, "/v1/responses", `{"metadata":{"id":"session 1"},"tools":[{"parameters":{"examples":[{"id":"7"}]}}]}`, nil},
		{"items sent along", "openai", false, "/v1/responses", `{"input":[{"type":"message","id":"msg_1"},{"id":"fc_1","type":"function_call"}]}`, nil},
		{"items referred to", "openai", false, "/v1/responses", `{"input":[{"type":"item_reference","id":"msg_1"},{"id":"msg_2"},{"id":"fc_1", "type" : "item_reference" }]}`, []string{"msg_1", "fc_1"}},
		{"type of another object", "openai", false, "/v1/responses", `{"input":[{"id":"msg_1","x":{"type":"item_reference"}},{"type":"item_reference"},{"id":"msg_2"}]}`, nil},
		{"in the query", "openai", false, "/v1/files?limit=3&after=file%2Dabc", "", []string{"file-abc"}},
		{"files of a batch", "openai", true, "/v1/batches/batch_1", `{"id":"batch_1","input_file_id":"file-in","output_file_id":"file-out","error_file_id":null,"metadata":{}}`, []string{"batch_1", "file-out"}},
		{"container of a tool", "openai", true, "/v1/responses", `{"id":"resp_1","output":[{"id":"ci_1","type":"code_interpreter_call","container_id":"cntr_1"}]}`, []string{"resp_1", "ci_1", "cntr_1"}},
		{"spoken answer", "openai", true, "/v1/chat/completions", `{"id":"chatcmpl-1","choices":[{"message":{"audio":{"id":"audio_1"},"tool_calls":[{"id":"call_1"}]}}]}`, []string{"audio_1"}},
		{"spoken before", "openai", false, "/v1/chat/completions", `{"messages":[{"role":"assistant","audio":{"id":"audio_1"}}]}`, []string{"audio_1"}},
		{"made by code", "anthropic", true, "/v1/messages", `{"id":"msg_1","container":{"id":"container_1"},"content":[{"type":"server_tool_use","id":"srvtoolu_1"},{"content":[{"type":"code_execution_output","file_id":"file_011"}]}]}`, []string{"container_1", "file_011"}},
		{"container again", "anthropic", false, "/v1/messages", `{"container":{"id":"container_1","skills":[{"skill_id":"pptx"},{"skill_id":"skill_01"}]},"messages":[]}`, []string{"container_1", "skill_01"}},
		{"gemini batch", "gemini", true, "/v1beta/models/m:batchGenerateContent", `{"name":"batches/b","metadata":{"model":"models/m","output":{"responsesFile":"files/batch-b"}}}`, []string{"batches/b", "files/batch-b"}},
		{"gemini download", "gemini", false, "/v1beta/files/abc:download?alt=media", "", []string{"files/abc"}},
		{"gemini interaction", "gemini", true, "/v1beta/interactions", `{"id":"v1_abc","status":"completed"}`, []string{"v1_abc"}},
		{"gemini goes on", "gemini", false, "/v1beta/interactions", `{"previous_interaction_id":"v1_abc","input":"on"}`, []string{"v1_abc"}},
		{"cut off", "openai", false, "/v1/responses", `{"previous_response_id":"resp_`, nil},
		{"not JSON", "openai", false, "/v1/responses", `previous_response_id=resp_1`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, step := range []int{len(c.body) + 1, 7, 1} {
				got := found(c.provider, c.answer, c.target, []byte(c.body), step)
				for _, w := range c.want {
					if !got[mark(w)] {
						t.Errorf("in steps of %d: %.40s is not found", step, w)
					}
				}
				if len(got) != len(c.want) {
					t.Errorf("in steps of %d: %d clues, want %d", step, len(got), len(c.want))
				}
			}
		})
	}
}

// found feeds a body in pieces.
func found(provider string, answer bool, target string, body []byte, step int) map[Mark]bool {
	c := new(Clues)
	if c.begin(tieRulesOf(provider), true); !answer {
		c = tieRulesOf(provider).requestClues(target)
	}
	all := make(map[Mark]bool)
	take := func() {
		for _, f := range c.Take() {
			all[f.Mark] = true
		}
	}
	for len(body) > 0 {
		n := min(step, len(body))
		_, _ = c.Write(body[:n])
		body = body[n:]
		take()
	}
	c.End()
	take()
	return all
}

// FuzzClues: whatever comes, in whatever pieces, the same is found, and nothing panics.
func FuzzClues(f *testing.F) {
	f.Add([]byte(`{"previous_response_id":"resp_1","a":["file-1",{"encrypted_content":"a\u0041\\"}]}`), 3)
	f.Add([]byte(`"id" : "x", "id"`), 1)
	f.Add([]byte(`{"encrypted_content" :"","id":"resp_1" ,"type":"item_reference"}{"id":"a\"b","id":1}`), 2)
	f.Fuzz(func(t *testing.T, body []byte, step int) {
		for _, answer := range []bool{false, true} {
			whole := found("openai", answer, "/v1/responses", body, len(body)+1)
			pieces := found("openai", answer, "/v1/responses", body, max(1, step%17))
			if fmt.Sprint(len(whole)) != fmt.Sprint(len(pieces)) {
				t.Fatalf("%d clues at once, %d in pieces", len(whole), len(pieces))
			}
			for m := range whole {
				if !pieces[m] {
					t.Fatal("a clue is lost in pieces")
				}
			}
		}
	})
}

func BenchmarkAnswerClues(b *testing.B) {
	body := []byte(`{"id":"chatcmpl-0123456789","object":"chat.completion","created":1700000000,"model":"gpt-4o","choices":[{"index":0,` +
		`"message":{"role":"assistant","content":"Something."},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":2,"total_tokens":14}}`)
	rules, c := tieRulesOf("openai"), new(Clues)
	b.ReportAllocs()
	for b.Loop() {
		c.begin(rules, true)
		_, _ = c.Write(body)
		c.End()
	}
}

func BenchmarkClues(b *testing.B) {
	body := []byte(`{"input":[` + strings.Repeat(`{"role":"user","content":[{"type":"input_text","text":"`+strings.Repeat("lorem ipsum ", 20)+`"}]},`, 3000) + `{}],"previous_response_id":"resp_1"}`)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		c := tieRulesOf("openai").requestClues("/v1/responses")
		_, _ = c.Write(body)
		if c.End(); len(c.Take()) != 1 {
			b.Fatal("not found")
		}
	}
}

func TestOwns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		provider, target string
		want             bool
	}{
		{"openai", "/v1/responses?stream=true", true},
		{"codex", "/backend-api/codex/responses", true},
		{"openai", "/v1/models", false},
		{"openai", "/v1/embeddings", false},
		{"anthropic", "/v1/messages", true},
		{"anthropic", "/v1/models", false},
		{"gemini", "/v1beta/models/m:batchGenerateContent", true},
		{"gemini", "/v1beta/models/m:streamGenerateContent?alt=sse", false},
	} {
		if got := tieRulesOf(c.provider).owns(c.target); got != c.want {
			t.Errorf("%s %s: %v", c.provider, c.target, got)
		}
	}
}
