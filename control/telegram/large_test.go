package telegram

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
	"github.com/sluice-proxy/sluice/scripts/botapi"
)

// Of a pool that fills more than one message, a button's question is all there, and it is said that there is more.
func TestButtonsOfALargePool(t *testing.T) {
	t.Parallel()
	k := newTalk(t, botapi.New(token))
	p := pool.Pool{Name: "large", Provider: "anthropic"}
	for i := range pool.MaxMembers {
		name := fmt.Sprintf("%s-%02d", strings.Repeat("member", 10), i)
		if _, err := k.keeper.AddCredential(t.Context(), pool.CredentialSpec{Name: name, Secret: vault.NewSecret([]byte("sk-canary-secret"))}); err != nil {
			t.Fatal(err)
		}
		p.Members = append(p.Members, name)
	}
	if _, err := k.keeper.CreatePool(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	shown := k.choose(k.command("/pools"), "large")
	if text := shown.Fields["text"]; !strings.HasSuffix(text, "and more: the command line has all of it.") {
		t.Errorf("what is shown of it ends %q", text[max(0, len(text)-100):])
	}
	for label, question := range map[string]string{"Rotate": "Make the next member active?", "Clear": "Lift all cooldowns?"} {
		if asked := k.choose(shown, label); !strings.Contains(asked.Fields["text"], question) {
			t.Errorf("%s: there is no question in %q", label, asked.Fields["text"])
		}
	}
	if done := k.choose(k.choose(shown, "Rotate"), "Yes"); !strings.HasPrefix(done.Fields["text"], "Rotated.") {
		t.Errorf("%v", done.Fields)
	}
}
