package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/source"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// What may be read without a word in the configuration: nothing is there but what
// somebody has put there for it.
const (
	defaultSecretEnv  = "SLUICE_SECRET_*"
	defaultSecretsDir = "/etc/sluice/secrets"
)

// secretsConfig is where credentials' secrets may be read from.
type secretsConfig struct {
	Interval  time.Duration // between two readings
	Env       []string      // patterns of variables
	Files     []string      // directories
	HashiCorp source.HashiCorp
	Commands  map[string]source.Command
}

// rawSecrets is the same as it is written.
type rawSecrets struct {
	Interval *string   `toml:"interval"`
	Env      *[]string `toml:"env"`
	Files    *[]string `toml:"files"`
	Vault    struct {
		Address   *string   `toml:"address"`
		TokenFile *string   `toml:"token_file"`
		CAFile    *string   `toml:"ca_file"`
		Namespace *string   `toml:"namespace"`
		Mount     *string   `toml:"mount"`
		Paths     *[]string `toml:"paths"`
	} `toml:"vault"`
	Command map[string]rawCommand `toml:"command"`
}

type rawCommand struct {
	Argv             []string          `toml:"argv"`
	Refs             []string          `toml:"refs"`
	User             string            `toml:"user"`
	Environment      map[string]string `toml:"environment"`
	EnvironmentFiles map[string]string `toml:"environment_files"`
	Timeout          *string           `toml:"timeout"`
}

func defaultSecrets() secretsConfig {
	return secretsConfig{Interval: pool.DefaultFetchInterval, Env: []string{defaultSecretEnv}, Files: []string{defaultSecretsDir}, HashiCorp: source.HashiCorp{TokenFile: defaultVaultToken}}
}

// check holds the section against what it may be. An error names the key.
func (r rawSecrets) check(stateDir string) (secretsConfig, error) {
	c := defaultSecrets()
	if err := duration("secrets.interval", r.Interval, &c.Interval, 10*time.Second, 24*time.Hour); err != nil {
		return c, err
	}
	if r.Env != nil {
		c.Env = *r.Env
		if slices.Contains(c.Env, "*") {
			return c, errors.New("secrets.env: \"*\" would be every variable of the daemon's: name them, such as \"OPENAI_*\"")
		}
	}
	if r.Files != nil {
		c.Files = slices.Clone(*r.Files)
	}
	for i := range c.Files {
		if err := absolute("secrets.files", &c.Files[i], &c.Files[i]); err != nil {
			return c, err
		}
		if c.Files[i] == "/" || within(stateDir, c.Files[i]) || within(c.Files[i], stateDir) {
			return c, fmt.Errorf("secrets.files: below %s is what is nobody's credential: name a directory that holds secrets for sluice and nothing else", c.Files[i])
		}
	}
	var err error
	if c.HashiCorp, err = r.hashiCorp(); err != nil {
		return c, err
	}
	if c.Commands, err = r.commands(); err != nil {
		return c, err
	}
	// What is still wrong is found here and not when it is needed.
	_, err = source.New(source.Options{HashiCorp: c.HashiCorp, Commands: c.Commands})
	return c, err
}

// within says whether a clean path is dir or below it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// defaultVaultToken is where Vault's token is.
const defaultVaultToken = "/etc/sluice/vault.token"

func (r rawSecrets) hashiCorp() (h source.HashiCorp, err error) {
	v := r.Vault
	h.TokenFile = defaultVaultToken
	err = absolute("secrets.vault.token_file", v.TokenFile, &h.TokenFile)
	if v.CAFile != nil && *v.CAFile != "" && err == nil {
		if h.CA, err = os.ReadFile(*v.CAFile); err != nil {
			err = fmt.Errorf("secrets.vault.ca_file: %w", err)
		}
	}
	for text, into := range map[*string]*string{v.Address: &h.Address, v.Namespace: &h.Namespace, v.Mount: &h.Mount} {
		if text != nil {
			*into = strings.Trim(*text, "/")
		}
	}
	if v.Paths != nil && len(*v.Paths) > 0 {
		h.Paths = *v.Paths
	}
	return h, err
}

func (r rawSecrets) commands() (map[string]source.Command, error) {
	var all map[string]source.Command
	for _, name := range slices.Sorted(maps.Keys(r.Command)) {
		raw, key := r.Command[name], "secrets.command."+name
		if err := pool.ValidName("name", name); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		c := source.Command{Argv: raw.Argv, Refs: raw.Refs, Environment: raw.Environment, EnvironmentFiles: raw.EnvironmentFiles}
		if raw.User != "" {
			var err error
			if c.UID, c.GID, err = parseOwner(raw.User); err != nil {
				return nil, fmt.Errorf("%s.user: %w", key, err)
			}
		}
		if err := duration(key+".timeout", raw.Timeout, &c.Timeout, time.Second, source.MaxCommandTimeout); err != nil {
			return nil, err
		}
		for variable, file := range raw.EnvironmentFiles {
			if !filepath.IsAbs(file) {
				return nil, fmt.Errorf("%s.environment_files: %s: %q is not an absolute path", key, variable, file)
			}
		}
		if all == nil {
			all = make(map[string]source.Command)
		}
		all[name] = c
	}
	return all, nil
}

// openSources puts together what secrets may be read from.
func (d *sluiced) openSources(context.Context) error {
	s := d.cfg.Secrets
	o := source.Options{Env: d.taken, Files: slices.Clone(s.Files), HashiCorp: s.HashiCorp, Commands: s.Commands}
	if d.cfg.CredentialDir != "" { // what systemd hands over is for the daemon
		o.Files = append(o.Files, filepath.Clean(d.cfg.CredentialDir))
	}
	var err error
	d.sources, err = source.New(o)
	return err
}

// takeEnvironment takes the variables that secrets may be read from out of the process's
// environment: neither what the daemon starts nor /proc/PID/environ shows them.
func takeEnvironment(patterns []string) (map[string]vault.Secret, error) {
	taken := make(map[string]vault.Secret)
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		if !source.Matches(patterns, name) {
			continue
		}
		taken[name] = vault.NewSecret([]byte(value))
		if err := os.Unsetenv(name); err != nil {
			return nil, fmt.Errorf("take %s out of the environment: %w", name, err)
		}
	}
	if len(taken) == 0 {
		return taken, nil
	}
	return taken, wipeEnvironment(func(name string) bool { _, is := taken[name]; return is })
}
