package simulator

import (
	"encoding/json"
	"net/http"
	"strings"
)

type responsesRequest struct {
	Model  string          `json:"model"`
	Stream bool            `json:"stream"`
	Input  json.RawMessage `json:"input"`

	Previous string   `json:"previous_response_id"`
	Include  []string `json:"include"`
}

// responses is POST /v1/responses, and /backend-api/codex/responses likewise.
func responses(v *visit) {
	var q responsesRequest
	if !v.read(&q) {
		return
	}
	if q.Model == "" {
		v.json(http.StatusBadRequest, openAIFailure(400, "invalid_request_error", "missing_required_parameter", "Missing required parameter: 'model'."))
		return
	}
	v.Header().Set("X-Request-Id", requestID("req_", v.seq))
	if v.foreign(&q) {
		return
	}
	thought := v.reasoning(&q)
	if q.Stream {
		v.responseEvents(q.Model, thought)
		return
	}
	message := v.outputItem("completed", v.sim.options.Text)
	v.json(http.StatusOK, v.responseObject(q.Model, "completed", outputs(thought, message)))
}

// responseObject is the "response" of the Responses API.
func (v *visit) responseObject(model, status string, output []any) map[string]any {
	r := map[string]any{
		"id": requestID("resp_", v.seq), "object": "response", "created_at": v.now.Unix(), "status": status,
		"model": model, "output": output, "error": nil, "incomplete_details": nil, "instructions": nil,
		"metadata": map[string]any{}, "parallel_tool_calls": true, "temperature": 1, "tool_choice": "auto", "tools": []any{},
		"top_p": 1, "max_output_tokens": nil, "previous_response_id": nil, "store": false,
		"reasoning":  map[string]any{"effort": nil, "summary": nil},
		"text":       map[string]any{"format": map[string]any{"type": "text"}},
		"truncation": "disabled", "usage": nil, "user": nil, "background": false,
	}
	if status == "completed" {
		r["usage"] = map[string]any{
			"input_tokens": 12, "input_tokens_details": map[string]any{"cached_tokens": 0},
			"output_tokens": 18, "output_tokens_details": map[string]any{"reasoning_tokens": 0}, "total_tokens": 30,
		}
	}
	return r
}

func outputText(said string) map[string]any {
	return map[string]any{"type": "output_text", "text": said, "annotations": []any{}, "logprobs": []any{}}
}

func (v *visit) outputItem(status, said string) map[string]any {
	content := []any{}
	if status == "completed" {
		content = []any{outputText(said)}
	}
	return map[string]any{
		"id": requestID("msg_", v.seq), "type": "message", "role": "assistant", "status": status, "content": content,
	}
}

// responseEvents streams; every event's data repeats its name in "type" and is numbered.
func (v *visit) responseEvents(model string, thought map[string]any) {
	st := v.stream()
	number := 0
	send := func(name string, value map[string]any) bool {
		value["type"], value["sequence_number"] = name, number
		number++
		return st.object(name, value)
	}
	item, index := requestID("msg_", v.seq), 0
	if thought != nil {
		index = 1
	}
	part := func(value map[string]any) map[string]any {
		value["item_id"], value["output_index"], value["content_index"] = item, index, 0
		return value
	}
	if !send("response.created", map[string]any{"response": v.responseObject(model, "in_progress", []any{})}) ||
		!send("response.in_progress", map[string]any{"response": v.responseObject(model, "in_progress", []any{})}) ||
		!thoughtEvents(send, thought) ||
		!send("response.output_item.added", map[string]any{"output_index": index, "item": v.outputItem("in_progress", "")}) ||
		!send("response.content_part.added", part(map[string]any{"part": outputText("")})) {
		return
	}
	var said strings.Builder
	if !v.words(func(word string) bool {
		said.WriteString(word)
		return send("response.output_text.delta", part(map[string]any{"delta": word, "logprobs": []any{}}))
	}) {
		return
	}
	done := v.outputItem("completed", said.String())
	_ = send("response.output_text.done", part(map[string]any{"text": said.String(), "logprobs": []any{}})) &&
		send("response.content_part.done", part(map[string]any{"part": outputText(said.String())})) &&
		send("response.output_item.done", map[string]any{"output_index": index, "item": done}) &&
		send("response.completed", map[string]any{"response": v.responseObject(model, "completed", outputs(thought, done))})
}

// thoughtEvents sends the reasoning item, if there is one.
func thoughtEvents(send func(string, map[string]any) bool, thought map[string]any) bool {
	return thought == nil || send("response.output_item.added", map[string]any{"output_index": 0, "item": thought}) &&
		send("response.output_item.done", map[string]any{"output_index": 0, "item": thought})
}

func outputs(thought, message map[string]any) []any {
	if thought == nil {
		return []any{message}
	}
	return []any{thought, message}
}

// responsesError is the Responses API's "error" event made of an error body.
func responsesError(body []byte) (string, []byte) {
	var e struct {
		Error struct {
			Type, Code, Message string
		}
	}
	_ = json.Unmarshal(body, &e) // a custom body may be anything; then the event says nothing
	code := e.Error.Code
	if code == "" {
		code = e.Error.Type
	}
	return "error", []byte(text(map[string]any{
		"type": "error", "code": code, "message": e.Error.Message, "param": nil, "sequence_number": 0,
	}))
}

// responsesFailed is its "response.failed" event, with all of the error in the response.
func (v *visit) responsesFailed(body []byte) (string, []byte) {
	var e struct{ Error map[string]any }
	_ = json.Unmarshal(body, &e) // a custom body may be anything; then the event says nothing
	if e.Error["code"] == nil && e.Error != nil {
		e.Error["code"] = e.Error["type"]
	}
	r := v.responseObject("", "failed", []any{})
	r["error"] = e.Error
	return "response.failed", []byte(text(map[string]any{"type": "response.failed", "response": r, "sequence_number": 99}))
}

// responsesUpgrade answers clients that would rather have a WebSocket: 426
// makes them fall back to POST. Codex 0.169 asks for one first, with
// "OpenAI-Beta: responses_websockets=2026-02-06", and does fall back.
func responsesUpgrade(v *visit) {
	if !v.known {
		v.refuse(openAIUnauthorized())
		return
	}
	if !strings.EqualFold(v.r.Header.Get("Upgrade"), "websocket") {
		v.Header().Set("Allow", http.MethodPost)
		v.json(http.StatusMethodNotAllowed, openAIFailure(405, "invalid_request_error", "", "Method not allowed: use POST."))
		return
	}
	v.json(http.StatusUpgradeRequired, openAIFailure(426, "invalid_request_error", "", "WebSocket is not offered here: use POST."))
}
