package simulator

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// possessions are what accounts have made: it is known to the one that made it alone.
type possessions struct {
	mu     sync.Mutex
	makers map[string]string // name of the thing -> credential
}

func (p *possessions) add(name, credential string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.makers == nil {
		p.makers = make(map[string]string)
	}
	p.makers[name] = credential
}

func (p *possessions) has(name, credential string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	maker, ok := p.makers[name]
	return ok && maker == credential
}

// sealedPrefix begins reasoning that only the account it was made for can decrypt.
const sealedPrefix = "gAAAAABsim"

// sealed is the encrypted_content of a reasoning item, kilobytes as the real ones.
func (v *visit) sealed() string {
	text := fmt.Sprintf("%s %d %s", v.verdict.Credential, v.seq, strings.Repeat("thought ", 200))
	return sealedPrefix + base64.URLEncoding.EncodeToString([]byte(text))
}

// foreign answers a request that names what another account made, or nobody, as the
// Responses API does, and says that it did.
func (v *visit) foreign(q *responsesRequest) bool {
	account := v.verdict.Credential
	if id := q.Previous; id != "" && !v.sim.possessions.has(id, account) {
		v.json(http.StatusBadRequest, map[string]any{"error": map[string]any{
			"message": fmt.Sprintf("Previous response with id '%s' not found.", id), "type": "invalid_request_error",
			"param": "previous_response_id", "code": "previous_response_not_found",
		}})
		return true
	}
	var items []struct {
		Sealed string `json:"encrypted_content"`
	}
	if json.Unmarshal(q.Input, &items) != nil { // a string
		return false
	}
	for _, item := range items {
		if strings.HasPrefix(item.Sealed, sealedPrefix) && !v.sim.possessions.has(item.Sealed, account) {
			v.json(http.StatusBadRequest, openAIFailure(400, "invalid_request_error", "invalid_encrypted_content",
				"The encrypted content could not be verified. Reason: Encrypted content could not be decrypted or parsed."))
			return true
		}
	}
	return false
}

// reasoning is the item that comes before the message where it was asked for; nil else.
func (v *visit) reasoning(q *responsesRequest) map[string]any {
	v.sim.possessions.add(requestID("resp_", v.seq), v.verdict.Credential)
	if !slices.Contains(q.Include, "reasoning.encrypted_content") {
		return nil
	}
	sealed := v.sealed()
	v.sim.possessions.add(sealed, v.verdict.Credential)
	return map[string]any{"id": requestID("rs_", v.seq), "type": "reasoning", "summary": []any{}, "encrypted_content": sealed}
}

// files is POST /v1/files: whatever is uploaded is a file of the account.
func files(v *visit) {
	id := requestID("file-", v.seq)
	v.sim.possessions.add(id, v.verdict.Credential)
	v.json(http.StatusOK, map[string]any{
		"id": id, "object": "file", "bytes": v.body.n, "created_at": v.now.Unix(), "filename": "upload", "purpose": "user_data", "status": "processed",
	})
}

// file is GET /v1/files/ID.
func file(v *visit) {
	id := v.r.URL.Path[strings.LastIndexByte(v.r.URL.Path, '/')+1:]
	if !v.sim.possessions.has(id, v.verdict.Credential) {
		v.json(http.StatusNotFound, openAIFailure(404, "invalid_request_error", "", "No such File object: "+id))
		return
	}
	v.json(http.StatusOK, map[string]any{"id": id, "object": "file", "filename": "upload", "purpose": "user_data", "status": "processed"})
}
