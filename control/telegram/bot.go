package telegram

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/go-telegram/bot"
	"github.com/go-telegram/bot/models"

	"github.com/sluice-proxy/sluice/control"
)

const (
	// defaultPoll is how long the Bot API may keep a request for updates open.
	defaultPoll = 50 * time.Second
	// maxAge is how old a command may be: one that was sent while nobody listened is
	// not carried out hours later.
	maxAge = 5 * time.Minute
	// helloPause is how long to wait before it is asked again who the bot is.
	helloPause = 10 * time.Second
)

// BotOptions is what a [Bot] needs. Token, Chats and Operations are required.
type BotOptions struct {
	Token string  // of the bot, as BotFather gave it
	Chats []int64 // ids of the chats that commands are taken from
	// Server is the address of the Bot API. Default: "https://api.telegram.org".
	Server     string
	Operations *control.Operations
	Log        *slog.Logger     // nil discards
	Now        func() time.Time // nil is time.Now
	// Poll is how long a request for updates is kept open. Default: 50 s.
	Poll time.Duration
}

// Bot carries out what is asked for in chats, by messages and by buttons.
type Bot struct {
	o    BotOptions
	api  *bot.Bot
	name string // the bot's own, once it is known

	mu       sync.Mutex
	troubled time.Time // when trouble with the Bot API was last written to the log
	strangers
}

// NewBot makes a bot; Run starts it.
func NewBot(o BotOptions) (*Bot, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Poll == 0 {
		o.Poll = defaultPoll
	}
	b := &Bot{o: o}
	client := &patient{client: &http.Client{Timeout: o.Poll + sendLimit}, log: o.Log}
	options := []bot.Option{
		bot.WithSkipGetMe(), bot.WithHTTPClient(o.Poll+time.Second, client), bot.WithErrorsHandler(b.trouble),
		// One at a time and in order: what is confirmed to the Bot API has been taken on.
		bot.WithNotAsyncHandlers(), bot.WithWorkers(1), bot.WithUpdatesChannelCap(0),
		bot.WithAllowedUpdates(bot.AllowedUpdates{models.AllowedUpdateMessage, models.AllowedUpdateCallbackQuery}),
		bot.WithDefaultHandler(func(ctx context.Context, _ *bot.Bot, u *models.Update) { b.handle(ctx, u) }),
	}
	if o.Server != "" {
		options = append(options, bot.WithServerURL(o.Server))
	}
	api, err := bot.New(o.Token, options...)
	if err != nil {
		return nil, fmt.Errorf("telegram: %w", redact(err, o.Token))
	}
	b.api = api
	return b, nil
}

// Run takes commands until ctx ends. An outage of the Bot API ends nothing.
func (b *Bot) Run(ctx context.Context) error {
	if !b.hello(ctx) {
		return nil
	}
	b.o.Log.Info("taking commands from Telegram", "bot", b.name, "chats", len(b.o.Chats))
	b.api.Start(ctx)
	return nil
}

// hello asks who the bot is, and tells the chats' menus what it can do.
func (b *Bot) hello(ctx context.Context) bool {
	for {
		me, err := b.api.GetMe(ctx)
		if err == nil {
			b.name = me.Username
			break
		}
		b.trouble(err)
		if pause(ctx, helloPause) != nil {
			return false
		}
	}
	menu := &bot.SetMyCommandsParams{}
	for _, c := range Commands() {
		menu.Commands = append(menu.Commands, models.BotCommand{Command: c.Name, Description: c.Summary})
	}
	if _, err := b.api.SetMyCommands(ctx, menu); err != nil {
		b.trouble(err) // the commands work without the menu
	}
	return true
}

// trouble writes down what is wrong with the Bot API, once a minute at most: the
// library tries again several times a second.
func (b *Bot) trouble(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	now := b.o.Now()
	b.mu.Lock()
	quiet := !b.troubled.IsZero() && now.Sub(b.troubled) < time.Minute
	if !quiet {
		b.troubled = now
	}
	b.mu.Unlock()
	if !quiet {
		b.o.Log.Warn("Telegram's Bot API", "error", redact(err, b.o.Token))
	}
}

// handle does what an update asks for. A defect in that ends nothing else.
func (b *Bot) handle(ctx context.Context, u *models.Update) {
	var chat int64
	defer func() {
		if fault := recover(); fault != nil {
			b.say(ctx, chat, b.failed("update", fmt.Errorf("panic: %v\n%s", fault, debug.Stack())))
		}
	}()
	switch {
	case u.Message != nil:
		chat = u.Message.Chat.ID
		b.message(ctx, u.Message)
	case u.CallbackQuery != nil:
		chat, _ = under(u.CallbackQuery)
		b.pressed(ctx, u.CallbackQuery)
	}
}

// admits says whether a chat is configured; who asks from another one is noted, and
// not answered.
func (b *Bot) admits(chat int64, user *models.User) (control.Actor, bool) {
	who := fmt.Sprintf("%d/", chat)
	if user != nil {
		who += fmt.Sprint(user.ID)
		if user.Username != "" {
			who += "@" + user.Username
		}
	}
	by := control.Actor{Channel: control.ChannelTelegram, Who: who}
	if slices.Contains(b.o.Chats, chat) {
		return by, user != nil // nobody in particular, as in a channel, commands nothing
	}
	b.mu.Lock()
	tell := b.worthTelling(chat, b.o.Now())
	b.mu.Unlock()
	if tell {
		b.o.Operations.Denied(by, "chat is not configured")
	}
	return by, false
}

// message does what a message says.
func (b *Bot) message(ctx context.Context, m *models.Message) {
	by, admitted := b.admits(m.Chat.ID, m.From)
	if !admitted {
		return
	}
	text := m.Text
	if text == "" {
		text = m.Caption
	}
	name, rest, ours := command(text, b.name)
	if carriesSecret(text) || ours && secretCommand(name, rest) {
		b.hide(ctx, m, by)
		return
	}
	switch {
	case !ours:
		return // people talk
	case b.o.Now().Sub(time.Unix(int64(m.Date), 0)) > maxAge:
		b.say(ctx, m.Chat.ID, reply{text: fmt.Sprintf("/%s came late and was not carried out: send it again if it still holds.", name)})
		return
	}
	b.say(ctx, m.Chat.ID, b.carryOut(ctx, by, name, rest))
}

// hide takes a secret out of the chat. It has been seen by then, and not only here.
func (b *Bot) hide(ctx context.Context, m *models.Message, by control.Actor) {
	err := persistently(ctx, func(ctx context.Context) error {
		_, err := b.api.DeleteMessage(ctx, &bot.DeleteMessageParams{ChatID: m.Chat.ID, MessageID: m.ID})
		return err
	})
	text := "A message that looked as if it held a secret was deleted."
	if err != nil {
		b.trouble(err)
		text = "A message looks as if it held a secret, and I could not delete it: delete it yourself."
	}
	b.o.Operations.Denied(by, "a secret in a chat")
	b.say(ctx, m.Chat.ID, reply{text: text + "\nNothing was done with it. It has been on Telegram's servers: replace it, and give the " +
		"new one to sluice on its host, with 'sluice cred add' or 'sluice cred update'."})
}

// say sends an answer, in pieces if it is long.
func (b *Bot) say(ctx context.Context, chat int64, r reply) {
	pieces := r.pieces()
	for i, text := range pieces {
		params := &bot.SendMessageParams{ChatID: chat, Text: text}
		if i == len(pieces)-1 && len(r.buttons) > 0 {
			params.ReplyMarkup = keyboard(r.buttons)
		}
		err := persistently(ctx, func(ctx context.Context) error {
			_, err := b.api.SendMessage(ctx, params)
			return err
		})
		if err != nil {
			b.trouble(err)
			return
		}
	}
}
