// Package botapi speaks as much of Telegram's Bot API as a bot of sluice's needs, for tests.
package botapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// BotName is the bot's user name.
const BotName = "SluiceBot"

// The messages that are written, and those that have buttons under them.
const (
	ToldID  = 77
	UnderID = 88
)

// User is who writes and presses: id 42, called kim.
const User = 42

// Server answers one bot. Its methods may be called concurrently.
type Server struct {
	token string

	mu      sync.Mutex
	changed chan struct{} // closed at the next change
	updates []json.RawMessage
	asked   []Asked
	refuse  func(method string) (status, retryAfter int)
}

// Asked is a request of the bot's.
type Asked struct {
	Method string
	At     time.Time
	Fields map[string]string
}

// New makes a server for the bot with this token.
func New(token string) *Server { return &Server{token: token, changed: make(chan struct{})} }

// Refuse has f say which requests are refused, with which status, and for how many
// seconds; status 0 is an answer.
func (s *Server) Refuse(f func(method string) (status, retryAfter int)) {
	s.change(func() { s.refuse = f })
}

func (s *Server) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method, ok := strings.CutPrefix(r.URL.Path, "/bot"+s.token+"/")
	if !ok {
		refusal(w, http.StatusUnauthorized, 0)
		return
	}
	fields := make(map[string]string)
	if r.ContentLength != 0 && r.ParseMultipartForm(1<<20) == nil {
		for name, values := range r.MultipartForm.Value {
			fields[name] = values[0]
		}
	}
	var refuse func(string) (int, int)
	s.change(func() {
		refuse = s.refuse
		s.asked = append(s.asked, Asked{method, time.Now(), fields})
	})
	if refuse != nil {
		if status, after := refuse(method); status != 0 {
			refusal(w, status, after)
			return
		}
	}
	if text, sent := fields["text"]; sent && (strings.TrimSpace(text) == "" || !utf8.ValidString(text) || len(utf16.Encode([]rune(text))) > 4096) {
		refusal(w, http.StatusBadRequest, 0)
		return
	}
	switch method {
	case "getMe":
		answer(w, map[string]any{"id": 1, "is_bot": true, "username": BotName})
	case "getUpdates":
		answer(w, s.poll(r.Context(), fields))
	case "sendMessage", "editMessageText":
		answer(w, map[string]any{"message_id": 900, "date": 1, "chat": map[string]any{"id": 1, "type": "group"}})
	default:
		answer(w, true)
	}
}

func refusal(w http.ResponseWriter, status, after int) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"ok":false,"error_code":%d,"description":"no","parameters":{"retry_after":%d}}`, status, after)
}

func answer(w http.ResponseWriter, result any) {
	// An error here is the bot's having gone: there is nobody to tell.
	_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "result": result})
}

// poll waits for an update that has not been confirmed, for as long as the bot wants.
func (s *Server) poll(ctx context.Context, fields map[string]string) []json.RawMessage {
	offset, _ := strconv.Atoi(fields["offset"])
	seconds, _ := strconv.Atoi(fields["timeout"])
	limit := time.After(time.Duration(seconds) * time.Second)
	for {
		s.mu.Lock()
		changed := s.changed
		// Ids begin with 1; a bot without an offset gets all of them.
		pending := s.updates[min(max(offset-1, 0), len(s.updates)):]
		s.mu.Unlock()
		if len(pending) > 0 {
			return pending
		}
		select {
		case <-ctx.Done():
			return nil
		case <-limit:
			return []json.RawMessage{}
		case <-changed:
		}
	}
}

func (s *Server) update(body map[string]any) {
	s.change(func() {
		body["update_id"] = len(s.updates) + 1
		text, err := json.Marshal(body)
		if err != nil {
			panic(err) // strings and numbers
		}
		s.updates = append(s.updates, text)
	})
}

func user() map[string]any {
	return map[string]any{"id": User, "username": "kim", "first_name": "Kim"}
}

// Tell has the user write a message.
func (s *Server) Tell(chat int64, text string, at time.Time) {
	s.update(map[string]any{"message": map[string]any{
		"message_id": ToldID, "date": at.Unix(), "text": text, "chat": map[string]any{"id": chat, "type": "group"}, "from": user(),
	}})
}

// Press has the user press a button.
func (s *Server) Press(chat int64, data string) {
	s.update(map[string]any{"callback_query": map[string]any{
		"id": "q", "data": data, "from": user(),
		"message": map[string]any{"message_id": UnderID, "date": 1, "chat": map[string]any{"id": chat, "type": "group"}},
	}})
}

// All are the bot's requests so far.
func (s *Server) All() []Asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Asked(nil), s.asked...)
}

// Said is the n-th request, from 0, by which the bot sent, changed or deleted a
// message; it waits for that until ctx ends.
func (s *Server) Said(ctx context.Context, n int) (Asked, error) {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		var said []Asked
		for _, x := range s.All() {
			switch x.Method {
			case "sendMessage", "editMessageText", "deleteMessage":
				said = append(said, x)
			}
		}
		if len(said) > n {
			return said[n], nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Asked{}, fmt.Errorf("the bot said %d things only: %+v: %w", len(said), said, ctx.Err())
		}
	}
}

// Buttons are the data of the buttons under a message, by label. Each has to have
// from 1 to 64 bytes (InlineKeyboardButton), and nothing else but a label.
func (x Asked) Buttons() (map[string]string, error) {
	var markup struct {
		Rows [][]map[string]string `json:"inline_keyboard"`
	}
	if text := x.Fields["reply_markup"]; text != "" {
		if err := json.Unmarshal([]byte(text), &markup); err != nil {
			return nil, err
		}
	}
	all := make(map[string]string)
	for _, row := range markup.Rows {
		for _, b := range row {
			data := b["callback_data"]
			if len(b) != 2 || b["text"] == "" || data == "" || len(data) > 64 {
				return nil, errors.New("BUTTON_DATA_INVALID: " + fmt.Sprint(b))
			}
			all[b["text"]] = data
		}
	}
	return all, nil
}
