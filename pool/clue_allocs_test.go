//go:build !race

package pool

import "testing"

// TestClueAllocations holds what looking through an answer allocates: nothing, but for the names that it hands out.
func TestClueAllocations(t *testing.T) {
	rules, c := tieRulesOf("openai"), new(Clues)
	body := []byte(`{"object":"list", "model" : "gpt-4o","choices":[{"index":0,"message":{"role":"assistant","content":"a \"quoted\" word"}}]}`)
	n := testing.AllocsPerRun(100, func() {
		if !rules.owns("/v1/chat/completions?a=b") {
			t.Fatal("answers of chats are not looked at")
		}
		c.begin(rules, true)
		_, _ = c.Write(body)
		if c.End(); len(c.Take()) != 0 {
			t.Fatal("something was found")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
