// Package telegram lets a Telegram chat know what happens, and say what is to be done.
package telegram

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-telegram/bot"

	"github.com/sluice-proxy/sluice/monitor/notice"
	"github.com/sluice-proxy/sluice/pool"
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
	// Pools tells what a pool is like now, under the sentence about it. Nil: nothing does.
	Pools Pools
	// Buttons are put under notices about a pool; a [Bot] of the same token has to listen.
	Buttons bool
}

// Pools tells what a pool is like; *pool.Keeper does.
type Pools interface {
	PoolStatus(ctx context.Context, name string) (pool.PoolStatus, error)
}

// Channel is one chat that a bot writes to.
type Channel struct {
	name  string
	token string
	chat  int64
	bot   *bot.Bot
	pools Pools
	press bool
}

// NewChannel makes the channel "telegram:" + name. Nothing is sent yet.
func NewChannel(o Options) (*Channel, error) {
	options := []bot.Option{
		bot.WithSkipGetMe(), bot.WithHTTPClient(0, &http.Client{Timeout: sendLimit}),
		// What it would print by itself is in the errors that its methods return.
		bot.WithErrorsHandler(func(error) {}),
	}
	if o.Server != "" {
		options = append(options, bot.WithServerURL(o.Server))
	}
	b, err := bot.New(o.Token, options...)
	if err != nil {
		return nil, redact(err, o.Token)
	}
	return &Channel{name: "telegram:" + o.Name, token: o.Token, chat: o.Chat, bot: b, pools: o.Pools, press: o.Buttons}, nil
}

// Name is the channel's.
func (c *Channel) Name() string { return c.name }

// Send writes the notice's sentence into the chat, and below it what the pool is
// like by now.
func (c *Channel) Send(ctx context.Context, n notice.Notice) error {
	params := &bot.SendMessageParams{ChatID: c.chat, Text: reply{text: n.Text}.one()}
	if n.Event.Pool != "" && c.pools != nil {
		// A pool that is gone, or cannot be read, keeps no notice back.
		if p, err := c.pools.PoolStatus(ctx, n.Event.Pool); err == nil {
			params.Text = reply{text: n.Text + "\n\n" + poolText(p, time.Now())}.one()
			if c.press {
				params.ReplyMarkup = keyboard(poolButtons(p.Name))
			}
		}
	}
	_, err := c.bot.SendMessage(ctx, params)
	if err == nil {
		return nil
	}
	var busy *bot.TooManyRequestsError
	if errors.As(err, &busy) {
		return &busyError{asked: busy.RetryAfter}
	}
	return redact(err, c.token)
}

// busyError is the Bot API's 429.
type busyError struct{ asked int } // in seconds

func (e *busyError) Error() string {
	text := fmt.Sprintf("the Bot API wants a pause of %d seconds", e.asked)
	if wait, cut := keptPause(e.asked); cut {
		text += fmt.Sprintf(", and %d are kept", wait/time.Second)
	}
	return text
}

// RetryAfter is the pause that the Bot API asked for, within bounds.
func (e *busyError) RetryAfter() time.Duration {
	wait, _ := keptPause(e.asked)
	return wait
}
