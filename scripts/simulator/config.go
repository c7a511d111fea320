package simulator

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/pelletier/go-toml/v2"
)

// Config is the configuration file of the simulator's command.
//
//	listen = ["127.0.0.1:8443"]      # with TLS
//	plain = []                       # without
//	admin = "127.0.0.1:8444"         # journal and behaviour over HTTP; "" = none
//	protocols = ["h2", "http/1.1"]
//	ca_file = "ca.pem"               # where the CA's certificate is written; "" = nowhere
//
//	[[credentials]]
//	name = "first"
//	secret = "sk-first"
//	quota = 3
//	window = "12s"
//	refusal = "openai"
type Config struct {
	Listen      []string     `toml:"listen"`
	Plain       []string     `toml:"plain"`
	Admin       string       `toml:"admin"`
	Protocols   []string     `toml:"protocols"`
	CAFile      string       `toml:"ca_file"`
	Text        string       `toml:"text"`
	Credentials []Credential `toml:"credentials"`
}

// ParseConfig reads TOML; a key that it does not know is an error.
func ParseConfig(raw []byte) (Config, error) {
	var c Config
	d := toml.NewDecoder(bytes.NewReader(raw)).DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		if strict := new(toml.StrictMissingError); errors.As(err, &strict) {
			return c, fmt.Errorf("simulator configuration: unknown key: %s", strict.String())
		}
		return c, fmt.Errorf("simulator configuration: %s", err)
	}
	return c, nil
}

// Options are what New is told by a configuration.
func (c Config) Options() Options {
	return Options{
		Addrs: c.Listen, Plain: c.Plain, Protocols: c.Protocols, Text: c.Text, Credentials: c.Credentials,
	}
}
