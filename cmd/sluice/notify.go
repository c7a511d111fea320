package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"github.com/sluice-proxy/sluice/control/telegram"
	"github.com/sluice-proxy/sluice/monitor"
	"github.com/sluice-proxy/sluice/monitor/audit"
	"github.com/sluice-proxy/sluice/monitor/notice"
	"github.com/sluice-proxy/sluice/pool"
)

// rawNotify is where notices go besides the log, as it is written. What is secret may
// be in a file of its own.
type rawNotify struct {
	Webhook  []rawWebhook  `toml:"webhook"`
	Service  []rawService  `toml:"service"`
	Telegram []rawTelegram `toml:"telegram"`
}

type rawWebhook struct {
	Name       string `toml:"name"`
	URL        string `toml:"url"`
	URLFile    string `toml:"url_file"`
	Secret     string `toml:"secret"`
	SecretFile string `toml:"secret_file"`
}

type rawService struct {
	Name    string `toml:"name"`
	URL     string `toml:"url"`
	URLFile string `toml:"url_file"`
}

type rawTelegram struct {
	Name      string `toml:"name"`
	Token     string `toml:"token"`
	TokenFile string `toml:"token_file"`
	Chat      int64  `toml:"chat"`
	Server    string `toml:"server"`
	Commands  bool   `toml:"commands"`
}

// notifyConfig is where notices go besides the log.
type notifyConfig struct {
	Channels []monitor.Channel // but for chats, which need to know the pools
	Chats    []chatConfig
	// Sum tells one [notify] from another, the files that it names included; empty: no channel.
	Sum string
}

// chatConfig is a chat that a bot writes to, and may take commands from.
type chatConfig struct {
	telegram.Options
	Commands bool
}

// check makes the channels and checks them. An error names the key.
func (raw rawNotify) check() (notifyConfig, error) {
	all := notifyConfig{Sum: raw.sum()}
	seen := make(map[string]bool)
	add := func(key string, index int, name string, open func() (monitor.Channel, error)) error {
		where := fmt.Sprintf("notify.%s %d", key, index+1)
		if err := pool.ValidName("name", name); err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		if seen[key+name] {
			return fmt.Errorf("%s: name: there are two channels %q", where, name)
		}
		seen[key+name] = true
		c, err := open()
		if err != nil {
			return fmt.Errorf("notify.%s %q: %w", key, name, err)
		}
		if _, chat := c.(*telegram.Channel); !chat {
			all.Channels = append(all.Channels, c)
		}
		return nil
	}
	for i, w := range raw.Webhook {
		if err := add("webhook", i, w.Name, w.channel); err != nil {
			return all, err
		}
	}
	for i, s := range raw.Service {
		if err := add("service", i, s.Name, s.channel); err != nil {
			return all, err
		}
	}
	for i, t := range raw.Telegram {
		open := func() (monitor.Channel, error) {
			chat, err := t.chat()
			if err != nil {
				return nil, err
			}
			all.Chats = append(all.Chats, chat)
			return telegram.NewChannel(chat.Options)
		}
		if err := add("telegram", i, t.Name, open); err != nil {
			return all, err
		}
	}
	return all, nil
}

// sum is of all that is written and of the files that it names. One that cannot be
// read is an error of its channel's.
func (raw rawNotify) sum() string {
	if len(raw.Webhook)+len(raw.Service)+len(raw.Telegram) == 0 {
		return ""
	}
	hash := sha256.New()
	fmt.Fprintf(hash, "%+v", raw)
	add := func(files ...string) {
		for _, file := range files {
			text, _ := os.ReadFile(file)
			fmt.Fprintf(hash, "%d:%s", len(text), text)
		}
	}
	for _, w := range raw.Webhook {
		add(w.URLFile, w.SecretFile)
	}
	for _, s := range raw.Service {
		add(s.URLFile)
	}
	for _, t := range raw.Telegram {
		add(t.TokenFile)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

func (w rawWebhook) channel() (monitor.Channel, error) {
	target, err := secretOrFile("url", w.URL, w.URLFile)
	if err != nil {
		return nil, err
	}
	var secret string
	if w.Secret != "" || w.SecretFile != "" {
		if secret, err = secretOrFile("secret", w.Secret, w.SecretFile); err != nil {
			return nil, err
		}
	}
	c, err := notice.NewWebhook(w.Name, target, []byte(secret))
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	return c, nil
}

func (s rawService) channel() (monitor.Channel, error) {
	target, err := secretOrFile("url", s.URL, s.URLFile)
	if err != nil {
		return nil, err
	}
	c, err := notice.NewService(s.Name, target)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	return c, nil
}

func (t rawTelegram) chat() (chatConfig, error) {
	token, err := secretOrFile("token", t.Token, t.TokenFile)
	if err != nil {
		return chatConfig{}, err
	}
	if t.Chat == 0 {
		return chatConfig{}, errors.New("chat: the id of the chat is missing")
	}
	if u, err := url.Parse(t.Server); err != nil || t.Server != "" && (u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
		return chatConfig{}, errors.New("server: it is no URL such as https://api.telegram.org")
	}
	options := telegram.Options{Name: t.Name, Token: token, Chat: t.Chat, Server: strings.TrimSuffix(t.Server, "/"), Buttons: t.Commands}
	return chatConfig{options, t.Commands}, nil
}

// secretOrFile is the value of a key, or what is in the file that its _file twin names.
func secretOrFile(key, value, file string) (string, error) {
	switch {
	case value != "" && file != "":
		return "", fmt.Errorf("%s: give it or %s_file, not both", key, key)
	case value != "":
		return value, nil
	case file == "":
		return "", fmt.Errorf("%s: is missing; %s_file may name a file that holds it", key, key)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s_file: %w", key, err)
	}
	if value = strings.TrimSpace(string(text)); value == "" {
		return "", fmt.Errorf("%s_file: %s is empty", key, file)
	}
	return value, nil
}

// notices are the channels of a configuration, and the daemon's log, which always
// gets them. Chats are told what a pool is like as well.
func (c config) notices(log *slog.Logger, pools telegram.Pools) ([]monitor.Channel, error) {
	all := append([]monitor.Channel{notice.Log{Logger: log}}, c.Notify.Channels...)
	for _, chat := range c.Notify.Chats {
		chat.Pools = pools
		channel, err := telegram.NewChannel(chat.Options)
		if err != nil {
			return nil, fmt.Errorf("notify.telegram %q: %w", chat.Name, err)
		}
		all = append(all, channel)
	}
	return all, nil
}

func (d *sluiced) openMonitor(ctx context.Context) error {
	var err error
	d.audit, err = audit.Open(audit.Options{
		Dir: auditDir(d.cfg.StateDir), KeyFile: auditKey(d.cfg.StateDir), Log: d.log,
	})
	if err != nil {
		return err
	}
	d.acquired(d.audit.Close)
	channels, err := d.cfg.notices(d.log, d.keep)
	if err != nil {
		return err
	}
	if err := d.newMonitor(ctx, channels); err != nil {
		return err
	}
	if err := d.watch.Load().FollowClock(ctx); err != nil { // a full disk, perhaps: it is tried again by itself
		d.log.Warn("the clock may have been set, and cooldowns stay as they are", "error", err)
	}
	return nil
}

// newMonitor takes the place of the monitor before, which must have ended.
func (d *sluiced) newMonitor(ctx context.Context, channels []monitor.Channel) error {
	watch, err := monitor.New(ctx, monitor.Options{
		Pools: d.keep, Events: d.keep, Cursors: d.store, Log: d.log,
		Readers: []monitor.Reader{d.audit, d.resets}, Channels: channels,
	})
	if err != nil {
		return err
	}
	d.watch.Store(watch)
	return nil
}

func (d *sluiced) openBots(context.Context) error {
	var err error
	d.bots, err = d.newBots(d.cfg.Notify.Chats)
	return err
}

// newBots makes a bot of each token that commands are taken by: the Bot API gives
// the updates of one to one listener.
func (d *sluiced) newBots(configured []chatConfig) ([]*telegram.Bot, error) {
	type account struct{ server, token string }
	chats := make(map[account][]int64)
	var order []account
	for _, chat := range configured {
		if !chat.Commands {
			continue
		}
		a := account{chat.Server, chat.Token}
		if chats[a] == nil {
			order = append(order, a)
		}
		chats[a] = append(chats[a], chat.Chat)
	}
	var bots []*telegram.Bot
	for _, a := range order {
		bot, err := telegram.NewBot(telegram.BotOptions{
			Token: a.token, Server: a.server, Chats: chats[a], Operations: d.ops, Log: d.log,
		})
		if err != nil {
			return nil, err
		}
		bots = append(bots, bot)
	}
	return bots, nil
}
