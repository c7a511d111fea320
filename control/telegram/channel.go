// Package telegram sends notices to a Telegram chat through the Bot API.
package telegram

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-telegram/bot"

	"github.com/sluice-proxy/sluice/monitor/notice"
)

// sendLimit is how long one message may take.
const sendLimit = 30 * time.Second

// Options of [NewChannel]. Name, Token and Chat are required.
type Options struct {
	Name  string
	Token string // of the bot, as BotFather gave it
	Chat  int64  // the chat's id
	// Server is the address of the Bot API. Default: "https://api.telegram.org".
	Server string
}

// Channel is one chat that a bot writes to.
type Channel struct {
	name  string
	token string
	chat  int64
	bot   *bot.Bot
}

// NewChannel makes the channel "telegram:" + name. Nothing is sent yet.
func NewChannel(o Options) (*Channel, error) {
	options := []bot.Option{bot.WithSkipGetMe(), bot.WithHTTPClient(0, &http.Client{Timeout: sendLimit})}
	if o.Server != "" {
		options = append(options, bot.WithServerURL(o.Server))
	}
	b, err := bot.New(o.Token, options...)
	if err != nil {
		return nil, redact(err, o.Token)
	}
	return &Channel{name: "telegram:" + o.Name, token: o.Token, chat: o.Chat, bot: b}, nil
}

// Name is the channel's.
func (c *Channel) Name() string { return c.name }

// Send writes the notice's sentence into the chat.
func (c *Channel) Send(ctx context.Context, n notice.Notice) error {
	_, err := c.bot.SendMessage(ctx, &bot.SendMessageParams{ChatID: c.chat, Text: n.Text})
	if err == nil {
		return nil
	}
	var busy *bot.TooManyRequestsError
	if errors.As(err, &busy) {
		return &busyError{time.Duration(busy.RetryAfter) * time.Second}
	}
	return redact(err, c.token)
}

// busyError is the Bot API's 429.
type busyError struct{ wait time.Duration }

func (e *busyError) Error() string { return fmt.Sprintf("the Bot API wants a pause of %s", e.wait) }

// RetryAfter is the pause that the Bot API asked for.
func (e *busyError) RetryAfter() time.Duration { return e.wait }

// redact takes the token out of an error: the API's URLs hold it.
func redact(err error, token string) error {
	if token == "" {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), token, "…"))
}
