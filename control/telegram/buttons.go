package telegram

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/go-telegram/bot"
	"github.com/go-telegram/bot/models"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/monitor/notice"
	"github.com/sluice-proxy/sluice/pool"
)

// Verbs are what a button asks for. Those that change something stand behind a
// question. They are in messages that outlive this release: a letter keeps its meaning.
const (
	verbShow             = "s"
	verbAskRotate        = "r"
	verbAskClear         = "c"
	verbRotate           = "R"
	verbClear            = "C"
	verbRemovePool       = "P"
	verbRemoveMember     = "M"
	verbRemoveCredential = "K"
	verbDetach           = "D"
	verbDetachAll        = "A"
	verbCancel           = "x"
)

// maxRows is how many rows of buttons a message has.
const maxRows = 20

// id stands for a name in a button, which has room for 64 bytes in all.
func id(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:6])
}

// mark is a button's data: VERB:ID.
func mark(verb, name string) string { return verb + ":" + id(name) }

// versioned is a button's data for a change of a pool as it is now: what is
// pressed later, when it is another one, is refused.
func versioned(verb string, p pool.PoolStatus, member string) string {
	data := mark(verb, p.Name) + ":" + control.Version(p)
	if member != "" {
		data += ":" + id(member)
	}
	return data
}

func poolButtons(name string) [][]button {
	return [][]button{{
		{"Rotate", mark(verbAskRotate, name)}, {"Clear", mark(verbAskClear, name)}, {"Show", mark(verbShow, name)},
	}}
}

func confirm(question, yes string) reply {
	return reply{text: question, buttons: [][]button{{{"Yes", yes}, {"No", verbCancel}}}}
}

// under is the message that a button is under, and its chat.
func under(q *models.CallbackQuery) (chat int64, message int) {
	switch {
	case q.Message.Message != nil:
		return q.Message.Message.Chat.ID, q.Message.Message.ID
	case q.Message.InaccessibleMessage != nil:
		return q.Message.InaccessibleMessage.Chat.ID, q.Message.InaccessibleMessage.MessageID
	}
	return 0, 0
}

// pressed does what a button says, and puts the outcome in the place of the message
// that it was under.
func (b *Bot) pressed(ctx context.Context, q *models.CallbackQuery) {
	chat, message := under(q)
	by, admitted := b.admits(chat, &q.From)
	if !admitted {
		return
	}
	r, err := b.press(ctx, by, q.Data)
	if err != nil {
		r = b.failed("button", err)
		if p, findErr := b.poolOf(ctx, q.Data); findErr == nil {
			r.text += "\n" + poolText(p, b.o.Now())
			r.buttons = poolButtons(p.Name)
		}
	}
	if err := persistently(ctx, func(ctx context.Context) error {
		_, err := b.api.AnswerCallbackQuery(ctx, &bot.AnswerCallbackQueryParams{CallbackQueryID: q.ID})
		return err
	}); err != nil {
		b.trouble(err) // the clock on the button runs a little longer
	}
	err = persistently(ctx, func(ctx context.Context) error {
		_, err := b.api.EditMessageText(ctx, &bot.EditMessageTextParams{
			ChatID: chat, MessageID: message, Text: r.one(), ReplyMarkup: keyboard(r.buttons),
		})
		return err
	})
	switch {
	case err == nil, errors.Is(err, bot.ErrorBadRequest) && strings.Contains(err.Error(), "not modified"):
	case errors.Is(err, bot.ErrorBadRequest):
		b.say(ctx, chat, r) // too old to be edited, or gone
	default:
		b.trouble(err)
	}
}

// poolOf is the pool that a button is about.
func (b *Bot) poolOf(ctx context.Context, data string) (pool.PoolStatus, error) {
	parts := strings.Split(data, ":")
	if len(parts) < 2 || !strings.Contains(verbShow+verbAskRotate+verbAskClear+verbRotate+verbClear+verbRemovePool+verbRemoveMember, parts[0]) {
		return pool.PoolStatus{}, invalid("button: it is about no pool")
	}
	pools, err := b.o.Operations.ListPools(ctx)
	if err != nil {
		return pool.PoolStatus{}, err
	}
	for _, p := range pools {
		if id(p.Name) == parts[1] {
			return p, nil
		}
	}
	return pool.PoolStatus{}, pool.NotFound("the pool of this button is gone")
}

// press carries out what a button stands for.
func (b *Bot) press(ctx context.Context, by control.Actor, data string) (reply, error) {
	parts := strings.Split(data, ":")
	for len(parts) < 4 {
		parts = append(parts, "")
	}
	verb, named, member := parts[0], parts[1], parts[3]
	by.Seen = parts[2]
	c := call{b.o.Operations, b, by, nil}
	switch verb {
	case verbCancel:
		return reply{text: "Left as it is."}, nil
	case verbDetachAll:
		targets, err := c.DetachAll(ctx, by)
		return reply{text: fmt.Sprintf("Detached %s.", notice.Count(len(targets), "target"))}, err
	case verbDetach:
		return c.pressDetach(ctx, named)
	case verbRemoveCredential:
		return c.pressRemoveCredential(ctx, named)
	}
	p, err := b.poolOf(ctx, data)
	if err != nil {
		return reply{}, err
	}
	return c.pressPool(ctx, verb, p, member)
}

func (c call) pressPool(ctx context.Context, verb string, p pool.PoolStatus, member string) (reply, error) {
	now := c.bot.o.Now()
	switch verb {
	case verbShow:
		return poolReply(p, now), nil
	case verbAskRotate:
		return confirm("Make the next member active?\n\n"+poolText(p, now), versioned(verbRotate, p, "")), nil
	case verbAskClear:
		return confirm("Lift all cooldowns?\n\n"+poolText(p, now), versioned(verbClear, p, "")), nil
	case verbRotate:
		p, err := c.RotatePool(ctx, c.by, p.Name)
		return c.said("Rotated.", p, err)
	case verbClear:
		p, err := c.ClearPool(ctx, c.by, p.Name, "")
		return c.said("Cleared.", p, err)
	case verbRemovePool:
		left, err := c.RemovePool(ctx, c.by, p.Name)
		r := reply{text: fmt.Sprintf("Pool %q is removed.", p.Name)}
		for _, t := range left {
			r.text += fmt.Sprintf("\nTarget %s, %s: %s.", t.ID, t.Ref, unserved)
		}
		return r, err
	case verbRemoveMember:
		for _, m := range p.Members {
			if id(m.Name) == member {
				p, err := c.RemoveMember(ctx, c.by, p.Name, m.Name)
				return c.said("Taken out.", p, err)
			}
		}
		return reply{}, pool.NotFound("pool %q has no such member any more", p.Name)
	}
	return reply{}, invalid("button: it is another release's")
}

func (c call) pressDetach(ctx context.Context, named string) (reply, error) {
	for _, t := range c.ListTargets() {
		if id(t.ID) == named {
			return reply{text: fmt.Sprintf("Target %s is detached.", t.ID)}, c.Detach(ctx, c.by, t.ID)
		}
	}
	return reply{}, pool.NotFound("the target of this button is gone")
}

func (c call) pressRemoveCredential(ctx context.Context, named string) (reply, error) {
	credentials, err := c.ListCredentials(ctx)
	if err != nil {
		return reply{}, err
	}
	for _, x := range credentials {
		if id(x.Name) == named {
			return reply{text: fmt.Sprintf("Credential %q is forgotten.", x.Name)}, c.RemoveCredential(ctx, c.by, x.Name)
		}
	}
	return reply{}, pool.NotFound("the credential of this button is gone")
}
