package telegram

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-telegram/bot"
)

const (
	// sendTries is how often an answer is sent before it is given up.
	sendTries = 5
	// sendPause is the first pause between two tries; each one is twice as long.
	sendPause = time.Second
	// maxPause bounds what the Bot API's retry_after is taken for: a number that is beyond
	// reason would keep a chat without notices and answers for ever.
	maxPause = time.Hour
	// maxAnswer bounds what is read of an answer that asks for a pause.
	maxAnswer = 64 << 10
)

// redact takes the token out of an error: the API's URLs hold it.
func redact(err error, token string) error {
	if err == nil || token == "" {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), token, "…"))
}

// keptPause is how long is waited when the Bot API asks for so many seconds, and whether
// that is cut short.
func keptPause(asked int) (wait time.Duration, cut bool) {
	const most = int(maxPause / time.Second)
	return time.Duration(min(max(1, asked), most)) * time.Second, asked > most
}

// patient sends nothing while the Bot API wants a pause: its 429 is for all that a
// bot sends, and who goes on asking is made to wait longer.
type patient struct {
	client *http.Client
	log    *slog.Logger

	mu    sync.Mutex
	until time.Time
}

var _ bot.HttpClient = (*patient)(nil)

// Do implements [bot.HttpClient].
func (p *patient) Do(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	wait := time.Until(p.until)
	p.mu.Unlock()
	if err := pause(r.Context(), wait); err != nil {
		return nil, err
	}
	answer, err := p.client.Do(r)
	if err != nil || answer.StatusCode != http.StatusTooManyRequests {
		return answer, err
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if closeErr := answer.Body.Close(); err != nil || closeErr != nil {
		return nil, errors.Join(err, closeErr)
	}
	answer.Body = io.NopCloser(bytes.NewReader(text))
	var said struct {
		Parameters struct {
			RetryAfter int `json:"retry_after"`
		} `json:"parameters"`
	}
	// What cannot be read asks for the shortest pause.
	_ = json.Unmarshal(text, &said)
	wait, cut := keptPause(said.Parameters.RetryAfter)
	if cut {
		p.log.Warn("Telegram's Bot API wants a longer pause than is kept", "seconds", said.Parameters.RetryAfter, "kept", int(wait/time.Second))
	}
	p.mu.Lock()
	p.until = time.Now().Add(wait)
	p.mu.Unlock()
	return answer, nil
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// persistently calls the Bot API until it has done what is asked, or says that it
// never will, or it has been tried often enough.
func persistently(ctx context.Context, call func(context.Context) error) error {
	wait := sendPause
	for try := 1; ; try++ {
		err := call(ctx)
		switch {
		case err == nil, errors.Is(err, bot.ErrorBadRequest), errors.Is(err, bot.ErrorForbidden),
			errors.Is(err, bot.ErrorUnauthorized), errors.Is(err, bot.ErrorNotFound):
			return err
		case try == sendTries:
			return fmt.Errorf("tried %d times: %w", try, err)
		}
		var busy *bot.TooManyRequestsError
		if errors.As(err, &busy) {
			continue // patient waits as long as it takes
		}
		if pauseErr := pause(ctx, wait); pauseErr != nil {
			return err
		}
		wait *= 2
	}
}
