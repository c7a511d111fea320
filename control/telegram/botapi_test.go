package telegram

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-telegram/bot/models"
)

// botAPI speaks as much of the Bot API as a bot needs, over HTTP.
type botAPI struct {
	*testing.T
	server *httptest.Server

	mu      sync.Mutex
	changed chan struct{} // closed at the next change
	updates []json.RawMessage
	asked   []asked
	refuse  func(method string) (status, retryAfter int) // nil or 0: it is answered
}

// asked is a request of the bot's.
type asked struct {
	method string
	at     time.Time
	fields map[string]string
}

func newBotAPI(t *testing.T) *botAPI {
	a := &botAPI{T: t, changed: make(chan struct{})}
	a.server = httptest.NewServer(a)
	t.Cleanup(a.server.Close)
	return a
}

func (a *botAPI) change(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

// ServeHTTP implements [http.Handler].
func (a *botAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method, ok := strings.CutPrefix(r.URL.Path, "/bot"+token+"/")
	if !ok {
		http.Error(w, `{"ok":false,"error_code":401,"description":"Unauthorized"}`, http.StatusUnauthorized)
		return
	}
	fields := make(map[string]string)
	if r.ContentLength != 0 && r.ParseMultipartForm(1<<20) == nil {
		for name, values := range r.MultipartForm.Value {
			fields[name] = values[0]
		}
	}
	var refuse func(string) (int, int)
	a.change(func() {
		refuse = a.refuse
		a.asked = append(a.asked, asked{method, time.Now(), fields})
	})
	if refuse != nil {
		if status, after := refuse(method); status != 0 {
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"ok":false,"error_code":%d,"description":"no","parameters":{"retry_after":%d}}`, status, after)
			return
		}
	}
	switch method {
	case "getMe":
		a.answer(w, map[string]any{"id": 1, "is_bot": true, "username": "SluiceBot"})
	case "getUpdates":
		a.answer(w, a.poll(r.Context(), fields))
	case "sendMessage", "editMessageText":
		a.answer(w, map[string]any{"message_id": 900, "date": 1, "chat": map[string]any{"id": 1, "type": "group"}})
	default:
		a.answer(w, true)
	}
}

func (a *botAPI) answer(w http.ResponseWriter, result any) {
	_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "result": result})
}

// poll waits for an update that has not been confirmed.
func (a *botAPI) poll(ctx context.Context, fields map[string]string) []json.RawMessage {
	offset, _ := strconv.Atoi(fields["offset"])
	seconds, _ := strconv.Atoi(fields["timeout"])
	limit := time.After(time.Duration(seconds) * time.Second)
	for {
		a.mu.Lock()
		changed := a.changed
		// Ids begin with 1; a bot without an offset gets all of them.
		pending := a.updates[min(max(offset-1, 0), len(a.updates)):]
		a.mu.Unlock()
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

func (a *botAPI) update(body map[string]any) {
	a.Helper()
	a.change(func() {
		body["update_id"] = len(a.updates) + 1
		text, err := json.Marshal(body)
		if err != nil {
			a.Error(err)
		}
		a.updates = append(a.updates, text)
	})
}

// tell has a user write a message; its id is 77.
func (a *botAPI) tell(chat int64, text string, at time.Time) {
	a.Helper()
	a.update(map[string]any{"message": map[string]any{
		"message_id": 77, "date": at.Unix(), "text": text, "chat": map[string]any{"id": chat, "type": "group"},
		"from": map[string]any{"id": 42, "username": "kim", "first_name": "Kim"},
	}})
}

// press has a user press a button under message 88.
func (a *botAPI) press(chat int64, data string) {
	a.Helper()
	a.update(map[string]any{"callback_query": map[string]any{
		"id": "q", "data": data, "from": map[string]any{"id": 42, "username": "kim", "first_name": "Kim"},
		"message": map[string]any{"message_id": 88, "date": 1, "chat": map[string]any{"id": chat, "type": "group"}},
	}})
}

// next is the n-th request of the bot's that says something; it waits for it.
func (a *botAPI) next(n int) asked {
	a.Helper()
	limit := time.After(15 * time.Second)
	for {
		a.mu.Lock()
		changed := a.changed
		var said []asked
		for _, x := range a.asked {
			if x.method != "getUpdates" && x.method != "getMe" && x.method != "setMyCommands" && x.method != "answerCallbackQuery" {
				said = append(said, x)
			}
		}
		a.mu.Unlock()
		if len(said) > n {
			return said[n]
		}
		select {
		case <-changed:
		case <-limit:
			a.Fatalf("the bot said %d things, and not a %d. one: %+v", len(said), n+1, said)
		}
	}
}

// buttons are the data of the buttons under a message, by label.
func (x asked) buttons(t *testing.T) map[string]string {
	t.Helper()
	var markup models.InlineKeyboardMarkup
	if text := x.fields["reply_markup"]; text != "" {
		if err := json.Unmarshal([]byte(text), &markup); err != nil {
			t.Fatal(err)
		}
	}
	all := make(map[string]string)
	for _, row := range markup.InlineKeyboard {
		for _, b := range row {
			if len(b.CallbackData) == 0 || len(b.CallbackData) > 64 {
				t.Errorf("a button has data of %d bytes", len(b.CallbackData))
			}
			all[b.Text] = b.CallbackData
		}
	}
	return all
}
