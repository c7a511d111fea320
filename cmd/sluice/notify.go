package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/sluice-proxy/sluice/control/telegram"
	"github.com/sluice-proxy/sluice/monitor"
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
}

// channels makes the channels and checks them. An error names the key.
func (raw rawNotify) channels() ([]monitor.Channel, error) {
	var all []monitor.Channel
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
		all = append(all, c)
		return nil
	}
	for i, w := range raw.Webhook {
		if err := add("webhook", i, w.Name, w.channel); err != nil {
			return nil, err
		}
	}
	for i, s := range raw.Service {
		if err := add("service", i, s.Name, s.channel); err != nil {
			return nil, err
		}
	}
	for i, t := range raw.Telegram {
		if err := add("telegram", i, t.Name, t.channel); err != nil {
			return nil, err
		}
	}
	return all, nil
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

func (t rawTelegram) channel() (monitor.Channel, error) {
	token, err := secretOrFile("token", t.Token, t.TokenFile)
	if err != nil {
		return nil, err
	}
	if t.Chat == 0 {
		return nil, errors.New("chat: the id of the chat is missing")
	}
	c, err := telegram.NewChannel(telegram.Options{Name: t.Name, Token: token, Chat: t.Chat, Server: t.Server})
	if err != nil {
		return nil, err
	}
	return c, nil
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

// notices are the channels of a configuration, and the daemon's log, which always gets them.
func (c config) notices(log *slog.Logger) []monitor.Channel {
	return append([]monitor.Channel{notice.Log{Logger: log}}, c.Notify...)
}
