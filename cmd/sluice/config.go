package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/sluice-proxy/sluice/intercept/container"
	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/reset"
)

const (
	defaultConfigFile = "/etc/sluice/config.toml"
	defaultStateDir   = "/var/lib/sluice"
	defaultPinDir     = "/sys/fs/bpf/sluice"
)

// What `guard` may be.
const (
	guardOn     = "on"     // packets are judged on links
	guardStrict = "strict" // and sockets are refused that are not TCP, UDP or ICMP datagram ones
	guardOff    = "off"    // links are left alone
)

// config is what the daemon is told, checked. scripts/packaging/config.toml documents
// each key with its default, and a test holds it to this.
type config struct {
	StateDir      string
	CredentialDir string // of systemd's, from the environment; "": none
	Socket        string
	PinDir        string
	FailOpen      bool
	Guard         string // on, strict or off
	MaxFlows      uint32
	UpstreamRoots []byte // PEM, trusted beside the system's roots
	DrainTime     time.Duration
	VanishedAfter time.Duration
	LogLevel      string
	LogFormat     string
	Pool          poolConfig
	Replay        replayConfig
	RefuseTokens  bool // that nobody knows, at the token endpoints of accounts
	Secrets       secretsConfig
	API           apiConfig
	Notify        notifyConfig
	ResetAlways   bool // also agents that were told nothing
	Profiles      reset.Profiles
	Containers    containersConfig
}

// containersConfig is where the container daemons are.
type containersConfig struct {
	Runtime    string   // by which agents are reset: containerd, apple or tart
	Containerd string   // socket
	Docker     string   // socket
	HoldStarts []string // executables of runtimes whose starts are held
}

// replayConfig bounds what is kept of requests to send them again, in bytes.
type replayConfig struct {
	MaxBody int64 // of one request
	Budget  int64 // of all together
}

// poolConfig is what pools are told.
type poolConfig struct {
	MaxStatedRetry time.Duration
	ProbeInterval  time.Duration
	MaxHeld        int // requests that a pool holds
}

// rawConfig is the file as it is written.
type rawConfig struct {
	StateDir      *string `toml:"state_dir"`
	Socket        *string `toml:"socket"`
	PinDir        *string `toml:"pin_dir"`
	FailMode      *string `toml:"fail_mode"`
	Guard         *string `toml:"guard"`
	MaxFlows      *int64  `toml:"max_flows"`
	UpstreamRoots *string `toml:"upstream_roots"`
	DrainTime     *string `toml:"drain_time"`
	VanishedAfter *string `toml:"vanished_after"`
	Log           struct {
		Level  *string `toml:"level"`
		Format *string `toml:"format"`
	} `toml:"log"`
	Pool struct {
		MaxStatedRetry *string `toml:"max_stated_retry"`
		ProbeInterval  *string `toml:"probe_interval"`
		MaxHeld        *int64  `toml:"max_held"`
	} `toml:"pool"`
	Replay struct {
		MaxBody *int64 `toml:"max_body_mib"`
		Budget  *int64 `toml:"budget_mib"`
	} `toml:"replay"`
	Accounts struct {
		UnknownTokens *string `toml:"unknown_tokens"`
	} `toml:"accounts"`
	Secrets         rawSecrets            `toml:"secrets"`
	API             rawAPI                `toml:"api"`
	Notify          rawNotify             `toml:"notify"`
	ResetOnlyIfSeen *bool                 `toml:"reset_only_if_seen"`
	Profile         map[string]rawProfile `toml:"profile"`
	Containers      struct {
		Runtime    *string   `toml:"runtime"`
		Containerd *string   `toml:"containerd"`
		Docker     *string   `toml:"docker"`
		HoldStarts *[]string `toml:"hold_starts"`
	} `toml:"containers"`
}

func defaultConfig() config {
	return config{
		StateDir: defaultStateDir, Socket: defaultSocket, PinDir: defaultPinDir, Guard: guardOn, MaxFlows: 65536,
		DrainTime: 30 * time.Second, VanishedAfter: time.Minute, LogLevel: "info", LogFormat: "auto",
		Pool:   poolConfig{MaxStatedRetry: 15 * time.Minute, ProbeInterval: 15 * time.Minute, MaxHeld: pool.DefaultMaxHeld},
		Replay: replayConfig{MaxBody: 32 << 20, Budget: 256 << 20},
		Containers: containersConfig{
			Runtime: "containerd", Containerd: container.DefaultContainerd, Docker: container.DefaultDocker,
			HoldStarts: container.DefaultRuntimes(),
		},
		Secrets: defaultSecrets(),
		API:     apiConfig{TokenFile: defaultTokenFile},
	}
}

// loadConfig reads the file, or gives the defaults if the file is the default
// one and is not there.
func loadConfig(file string) (config, error) {
	given := file != ""
	if !given {
		file = defaultConfigFile
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && !given {
		return defaultConfig(), nil
	}
	if err != nil {
		return config{}, fmt.Errorf("config: %w", err)
	}
	parsed, err := parseConfig(text)
	if err != nil {
		return config{}, fmt.Errorf("config %s: %w", file, err)
	}
	return parsed, nil
}

// parseConfig checks each key; an error names the key, and the line where the
// file is not TOML or has a key that there is none of.
func parseConfig(text []byte) (config, error) {
	var raw rawConfig
	decoder := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(&raw); err != nil {
		return config{}, tomlError(err)
	}
	c := defaultConfig()
	var err error
	keep := func(e error) {
		if err == nil {
			err = e
		}
	}
	keep(absolute("state_dir", raw.StateDir, &c.StateDir))
	keep(absolute("socket", raw.Socket, &c.Socket))
	keep(absolute("pin_dir", raw.PinDir, &c.PinDir))
	mode := "closed"
	keep(choice("fail_mode", raw.FailMode, &mode, "closed", "open"))
	c.FailOpen = mode == "open"
	keep(choice("guard", raw.Guard, &c.Guard, guardOn, guardStrict, guardOff))
	flows, held := int64(c.MaxFlows), int64(c.Pool.MaxHeld)
	keep(between("max_flows", raw.MaxFlows, &flows, 1024, 1<<24))
	keep(between("pool.max_held", raw.Pool.MaxHeld, &held, 1, 1<<16))
	c.MaxFlows, c.Pool.MaxHeld = uint32(flows), int(held)
	body, budget := c.Replay.MaxBody>>20, c.Replay.Budget>>20
	keep(between("replay.max_body_mib", raw.Replay.MaxBody, &body, 1, 1<<10))
	keep(between("replay.budget_mib", raw.Replay.Budget, &budget, 1, 1<<16))
	unknown := "pass"
	keep(choice("accounts.unknown_tokens", raw.Accounts.UnknownTokens, &unknown, "pass", "refuse"))
	c.RefuseTokens = unknown == "refuse"
	c.Replay = replayConfig{MaxBody: body << 20, Budget: budget << 20}
	if raw.UpstreamRoots != nil && *raw.UpstreamRoots != "" {
		var readErr error
		if c.UpstreamRoots, readErr = os.ReadFile(*raw.UpstreamRoots); readErr != nil {
			keep(fmt.Errorf("upstream_roots: %w", readErr))
		} else if !x509.NewCertPool().AppendCertsFromPEM(c.UpstreamRoots) {
			keep(fmt.Errorf("upstream_roots: there is no PEM certificate in %s", *raw.UpstreamRoots))
		}
	}
	keep(duration("drain_time", raw.DrainTime, &c.DrainTime, 0, time.Hour))
	keep(duration("vanished_after", raw.VanishedAfter, &c.VanishedAfter, time.Second, time.Hour))
	keep(choice("log.level", raw.Log.Level, &c.LogLevel, "debug", "info", "warn", "error"))
	keep(choice("log.format", raw.Log.Format, &c.LogFormat, "auto", "text", "json"))
	keep(duration("pool.max_stated_retry", raw.Pool.MaxStatedRetry, &c.Pool.MaxStatedRetry, time.Second, 24*time.Hour))
	keep(duration("pool.probe_interval", raw.Pool.ProbeInterval, &c.Pool.ProbeInterval, 0, 24*time.Hour))
	if err == nil {
		c.Secrets, err = raw.Secrets.check(c.StateDir)
	}
	if err == nil {
		c.API, err = raw.API.check()
	}
	keep(choice("containers.runtime", raw.Containers.Runtime, &c.Containers.Runtime, "containerd", "apple", "tart"))
	keep(absolute("containers.containerd", raw.Containers.Containerd, &c.Containers.Containerd))
	keep(absolute("containers.docker", raw.Containers.Docker, &c.Containers.Docker))
	if raw.Containers.HoldStarts != nil {
		c.Containers.HoldStarts = make([]string, len(*raw.Containers.HoldStarts))
		for i := range *raw.Containers.HoldStarts {
			keep(absolute("containers.hold_starts", &(*raw.Containers.HoldStarts)[i], &c.Containers.HoldStarts[i]))
		}
	}
	c.ResetAlways = raw.ResetOnlyIfSeen != nil && !*raw.ResetOnlyIfSeen
	if err == nil {
		c.Profiles, err = resetProfiles(raw.Profile)
	}
	if err == nil {
		c.Notify, err = raw.Notify.check()
	}
	return c, err
}

// tomlError says in which line what is wrong.
func tomlError(err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		row, _ := unknown.Errors[0].Position()
		return fmt.Errorf("line %d: there is no key %q", row, strings.Join(unknown.Errors[0].Key(), "."))
	}
	var malformed *toml.DecodeError
	if !errors.As(err, &malformed) {
		return err
	}
	row, _ := malformed.Position()
	key := strings.Join(malformed.Key(), ".")
	switch said := malformed.Error(); {
	case key == "":
	case strings.Contains(said, "already"): // a key or a section that is there twice
		return fmt.Errorf("line %d: %s: is there already, further up", row, key)
	default:
		return fmt.Errorf("line %d: %s: %s belongs here", row, key, missingKind(malformed))
	}
	return fmt.Errorf("line %d: %s", row, strings.TrimPrefix(malformed.Error(), "toml: "))
}

// missingKind is what a value should have been: the library names the Go type, and nothing else does.
func missingKind(err *toml.DecodeError) string {
	text := err.Error()
	switch text[strings.LastIndexAny(text, " *")+1:] {
	case "string":
		return "text in quotation marks"
	case "int64":
		return "a whole number"
	case "bool":
		return "true or false"
	case "[]string":
		return "a list of texts in quotation marks"
	}
	return "a value of another kind"
}

func absolute(key string, value, into *string) error {
	if value == nil {
		return nil
	}
	if !filepath.IsAbs(*value) {
		return fmt.Errorf("%s: %q is not an absolute path", key, *value)
	}
	*into = filepath.Clean(*value)
	return nil
}

func choice(key string, value, into *string, choices ...string) error {
	if value == nil {
		return nil
	}
	for _, possible := range choices {
		if *value == possible {
			*into = possible
			return nil
		}
	}
	return fmt.Errorf("%s: %q is none of %s", key, *value, list(choices))
}

func between(key string, value, into *int64, least, most int64) error {
	if value == nil {
		return nil
	}
	if *value < least || *value > most {
		return fmt.Errorf("%s: %d is not from %d to %d", key, *value, least, most)
	}
	*into = *value
	return nil
}

func duration(key string, value *string, into *time.Duration, least, most time.Duration) error {
	if value == nil {
		return nil
	}
	d, err := time.ParseDuration(*value)
	if err != nil || d < least || d > most {
		return fmt.Errorf("%s: %q is not a duration from %s to %s, such as \"90s\"", key, *value, span(least), span(most))
	}
	*into = d
	return nil
}
