package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"github.com/sluice-proxy/sluice/intercept/ca"
)

// configReference is the file that is installed, and the documentation of the keys.
const configReference = "../../scripts/packaging/config.toml"

// commentedKey is a line of it that is a setting, or goes on with one: no space
// follows the #. Prose and examples have one.
var commentedKey = regexp.MustCompile(`(?m)^#(\S)`)

// The installed file states the defaults, each commented out, and names every key there is.
func TestConfigReference(t *testing.T) {
	t.Parallel()
	installed, err := os.ReadFile(configReference)
	if err != nil {
		t.Fatal(err)
	}
	var set map[string]any
	if err := toml.Unmarshal(installed, &set); err != nil {
		t.Fatal(err)
	}
	for section, value := range set {
		if !isEmpty(value) {
			t.Errorf("%s sets %s: %v; a default that is set cannot change with the next version", configReference, section, value)
		}
	}
	text := commentedKey.ReplaceAll(installed, []byte("$1"))
	got, err := parseConfig(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(defaultConfig(), got); diff != "" {
		t.Errorf("%s does not state the defaults (-default +file):\n%s", configReference, diff)
	}
	var written map[string]any
	if err := toml.Unmarshal(text, &written); err != nil {
		t.Fatal(err)
	}
	for _, key := range keysOf(reflect.TypeFor[rawConfig]()) {
		table, path := written, strings.Split(key, ".")
		for _, section := range path[:len(path)-1] {
			table, _ = table[section].(map[string]any)
		}
		if _, ok := table[path[len(path)-1]]; !ok {
			t.Errorf("%s does not mention %s", configReference, key)
		}
	}
}

// isEmpty says whether a section sets nothing, and none of its own sections does.
func isEmpty(value any) bool {
	table, ok := value.(map[string]any)
	for _, inner := range table {
		ok = ok && isEmpty(inner)
	}
	return ok
}

// What is written any number of times has no default: an example names each key it takes.
func TestConfigExamples(t *testing.T) {
	t.Parallel()
	installed, err := os.ReadFile(configReference)
	if err != nil {
		t.Fatal(err)
	}
	for header, raw := range map[string]reflect.Type{
		"[[notify.webhook]]":   reflect.TypeFor[rawWebhook](),
		"[[notify.service]]":   reflect.TypeFor[rawService](),
		"[[notify.telegram]]":  reflect.TypeFor[rawTelegram](),
		"[profile.mybot]":      reflect.TypeFor[rawProfile](),
		"[secrets.command.op]": reflect.TypeFor[rawCommand](),
	} {
		_, example, found := strings.Cut(string(installed), "#   "+header+"\n")
		for _, key := range keysOf(raw) {
			if !found || !regexp.MustCompile(`(?m)^#   (# or: )?`+key+` = `).MatchString(paragraph(example)) {
				t.Errorf("%s: no example of %s has %s", configReference, header, key)
			}
		}
	}
}

// paragraph is the text up to the first line that is no example.
func paragraph(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#   ") {
			break
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "")
}

// An example that is copied into the configuration is TOML.
func TestConfigExamplesAreTOML(t *testing.T) {
	t.Parallel()
	installed, err := os.ReadFile(configReference)
	if err != nil {
		t.Fatal(err)
	}
	for header, example := range examplesOf(string(installed)) {
		var set map[string]any
		if err := toml.Unmarshal([]byte(example), &set); err != nil {
			t.Errorf("%s: %v", header, err)
		}
	}
}

// examplesOf are the examples by their headers.
func examplesOf(installed string) map[string]string {
	all, header := make(map[string]string), ""
	for line := range strings.Lines(installed) {
		line, is := strings.CutPrefix(line, "#   ")
		switch {
		case !is:
			header = ""
		case strings.HasPrefix(line, "["):
			header = strings.TrimSpace(line)
		}
		if header != "" {
			all[header] += line
		}
	}
	return all
}

func keysOf(raw reflect.Type) []string {
	var keys []string
	for i := range raw.NumField() {
		field := raw.Field(i)
		if field.Type.Kind() == reflect.Struct {
			for _, key := range keysOf(field.Type) {
				keys = append(keys, field.Tag.Get("toml")+"."+key)
			}
			continue
		}
		keys = append(keys, field.Tag.Get("toml"))
	}
	return keys
}

func TestParseConfig(t *testing.T) {
	t.Parallel()
	roots := filepath.Join(t.TempDir(), "roots.pem")
	pem := someCertificate(t)
	if err := os.WriteFile(roots, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, text string
		change     func(*config)
		err        string // a part of it; "" is none
	}{
		{name: "empty"},
		{name: "paths are cleaned", text: `state_dir = "/a//b/"`, change: func(c *config) { c.StateDir = "/a/b" }},
		{name: "fail open", text: `fail_mode = "open"`, change: func(c *config) { c.FailOpen = true }},
		{name: "nested", text: "[pool]\nprobe_interval = \"0s\"", change: func(c *config) { c.Pool.ProbeInterval = 0 }},
		{name: "drain", text: `drain_time = "5s"`, change: func(c *config) { c.DrainTime = 5 * time.Second }},
		{name: "vanished", text: `vanished_after = "5s"`, change: func(c *config) { c.VanishedAfter = 5 * time.Second }},
		{name: "roots", text: `upstream_roots = "` + roots + `"`, change: func(c *config) { c.UpstreamRoots = pem }},
		{name: "replay", text: "[replay]\nmax_body_mib = 64\nbudget_mib = 1024", change: func(c *config) { c.Replay = replayConfig{64 << 20, 1 << 30} }},
		{name: "secrets", text: "[secrets]\ninterval = \"1m\"\nenv = [\"A\"]\nfiles = [\"/run//secrets/\"]", change: func(c *config) {
			c.Secrets.Interval, c.Secrets.Env, c.Secrets.Files = time.Minute, []string{"A"}, []string{"/run/secrets"}
		}},
		{name: "every variable", text: "[secrets]\nenv = [\"*\"]", err: "secrets.env: \"*\" would be every variable"},
		{name: "every file", text: "[secrets]\nfiles = [\"/\"]", err: "secrets.files: below / is what is nobody's credential"},
		{name: "the state directory", text: "state_dir = \"/a/b\"\n[secrets]\nfiles = [\"/a/b/c\"]", err: "secrets.files: below /a/b/c"},
		{name: "above the state directory", text: "[secrets]\nfiles = [\"/var/lib/\"]", err: "secrets.files: below /var/lib "},
		{name: "a relative directory", text: "[secrets]\nfiles = [\"kept\"]", err: "secrets.files: \"kept\" is not an absolute path"},
		{name: "Vault in clear", text: "[secrets.vault]\naddress = \"http://vault.example:8200\"", err: "secrets.vault: address: the token would go to another host in clear"},
		{name: "a Vault without its CA", text: "[secrets.vault]\naddress = \"https://v\"\nca_file = \"/nowhere\"", err: "secrets.vault.ca_file: open /nowhere"},
		{name: "a command for anything", text: "[secrets.command.op]\nargv = [\"op\", \"{ref}\"]", err: "secrets.command.op: refs: is missing"},
		{name: "a command of somebody", text: "[secrets.command.op]\nuser = \"op\"", err: "secrets.command.op.user: "},
		{name: "a command that takes long", text: "[secrets.command.op]\ntimeout = \"1h\"", err: "secrets.command.op.timeout: "},
		{name: "api", text: "[api]\nlisten = \"127.0.0.1:7734\"\ntoken_file = \"/t\"", change: func(c *config) { c.API = apiConfig{Listen: "127.0.0.1:7734", TokenFile: "/t"} }},
		{
			name: "api with TLS", text: "[api]\nlisten = \":7734\"\ntls_cert = \"c\"\ntls_key = \"k\"",
			change: func(c *config) { c.API.Listen, c.API.TLSCert, c.API.TLSKey = ":7734", "c", "k" },
		},
		{name: "api in clear", text: "[api]\nlisten = \"192.0.2.1:7734\"", err: "api.listen: \"192.0.2.1:7734\" can be reached from elsewhere"},
		{name: "api in clear everywhere", text: "[api]\nlisten = \":7734\"", err: "api.listen: "},
		{name: "api without port", text: "[api]\nlisten = \"127.0.0.1\"", err: "api.listen: \"127.0.0.1\" is not HOST:PORT"},
		{name: "api with half a pair", text: "[api]\ntls_cert = \"c\"", err: "api.tls_cert: it and tls_key"},
		{name: "reset always", text: `reset_only_if_seen = false`, change: func(c *config) { c.ResetAlways = true }},
		{name: "no starts held", text: "[containers]\nhold_starts = []", change: func(c *config) { c.Containers.HoldStarts = []string{} }},
		{name: "one runtime's starts held", text: "[containers]\nhold_starts = [\"/opt/bin/../runc\"]", change: func(c *config) { c.Containers.HoldStarts = []string{"/opt/runc"} }},
		{name: "relative runtime", text: "[containers]\nhold_starts = [\"runc\"]", err: "containers.hold_starts"},
		{name: "containers", text: "[containers]\nruntime = \"tart\"\ndocker = \"/d.sock\"", change: func(c *config) { c.Containers.Runtime, c.Containers.Docker = "tart", "/d.sock" }},
		{name: "runtime", text: "[containers]\nruntime = \"podman\"", err: `containers.runtime: "podman" is none of`},
		{name: "profile user", text: "[profile.x]\nargv = [\"x\"]", err: "profile.x.user: is missing"},
		{name: "profile user by name", text: "[profile.x]\nargv = [\"x\"]\nuser = \"root\"", err: `profile.x.user: "root" is not UID`},
		{name: "profile group", text: "[profile.x]\nargv = [\"x\"]\nuser = \"1:-1\"", err: `profile.x.user: "1:-1"`},
		{name: "profile argv", text: "[profile.x]\nuser = \"1\"", err: "profile.x: argv: the command is missing"},
		{name: "profile timeout", text: "[profile.x]\nargv = [\"x\"]\nuser = \"1\"\ntimeout = \"1h\"", err: "profile.x.timeout:"},
		{name: "profile key", text: "[profile.x]\nargs = [\"x\"]", err: `there is no key "profile.x.args"`},
		{name: "no replay", text: "[replay]\nmax_body_mib = 0", err: "replay.max_body_mib: 0 is not from 1 to 1024"},
		{name: "held", text: "[pool]\nmax_held = 7", change: func(c *config) { c.Pool.MaxHeld = 7 }},
		{name: "unknown key", text: "socket = \"/s\"\n\nsokcet = \"/t\"", err: `line 3: there is no key "sokcet"`},
		{name: "unknown nested key", text: "[log]\ncolour = true", err: `line 2: there is no key "log.colour"`},
		{name: "unknown section", text: "[telegram]\ntoken = \"x\"", err: `there is no key "telegram`},
		{name: "no toml", text: "socket", err: "line 1"},
		{name: "wrong type", text: "socket = 5", err: "line 1: socket: text in quotation marks belongs here"},
		{name: "a number of seconds", text: "drain_time = 30", err: "line 1: drain_time: text in quotation marks belongs here"},
		{name: "no number", text: "max_flows = \"many\"", err: "line 1: max_flows: a whole number belongs here"},
		{name: "no whole number", text: "max_flows = 1.5", err: "line 1: max_flows: a whole number belongs here"},
		{name: "no truth", text: "reset_only_if_seen = \"no\"", err: "line 1: reset_only_if_seen: true or false belongs here"},
		{name: "a key twice", text: "guard = \"on\"\nguard = \"off\"", err: "line 2: guard: is there already"},
		{name: "a section twice", text: "[log]\nlevel = \"info\"\n[log]\nlevel = \"warn\"", err: "line 3: log: is there already"},
		{name: "a key of a section twice", text: "[log]\nlevel = \"info\"\nlevel = \"info\"", err: "line 3: level: is there already"},
		{name: "one of several for a section", text: "[[log]]\nlevel = \"info\"", err: "line 1: log: a value of another kind belongs here"},
		{name: "too long", text: "drain_time = \"2h\"", err: `drain_time: "2h" is not a duration from 0s to 1h00m, such as "90s"`},
		{name: "unknown service", text: "[[notify.service]]\nname = \"a\"\nurl = \"foo://x\"", err: `notify.service "a": url: foo: unknown service`},
		{name: "relative path", text: `pin_dir = "bpf"`, err: `pin_dir: "bpf" is not an absolute path`},
		{name: "fail mode", text: `fail_mode = "ajar"`, err: `fail_mode: "ajar" is none of closed, open`},
		{name: "too few flows", text: "max_flows = 5", err: "max_flows: 5"},
		{name: "negative flows", text: "max_flows = -1", err: "max_flows: -1"},
		{name: "number as duration", text: `drain_time = "5"`, err: `drain_time: "5"`},
		{name: "negative duration", text: `drain_time = "-5s"`, err: "drain_time"},
		{name: "vanished at once", text: `vanished_after = "0s"`, err: "vanished_after"},
		{name: "roots without a certificate", text: `upstream_roots = "/etc/passwd"`, err: "no PEM certificate in /etc/passwd"},
		{name: "roots that are empty", text: `upstream_roots = "/dev/null"`, err: "no PEM certificate in /dev/null"},
		{name: "roots missing", text: `upstream_roots = "/nowhere/at/all"`, err: "upstream_roots"},
		{name: "log level", text: "[log]\nlevel = \"loud\"", err: `log.level: "loud"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			want := defaultConfig()
			if tc.change != nil {
				tc.change(&want)
			}
			got, err := parseConfig([]byte(tc.text))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error is %v, want one with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestLoadConfig(t *testing.T) {
	t.Parallel()
	if _, err := loadConfig(filepath.Join(t.TempDir(), "none.toml")); err == nil {
		t.Error("a file that was asked for and is not there is no error")
	}
	file := filepath.Join(t.TempDir(), "bad.toml")
	if err := os.WriteFile(file, []byte("nonsense = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadConfig(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v does not name the file", err)
	}
}

// TestNotify reads channels of every kind; a mistake names its key, and no secret.
func TestNotify(t *testing.T) {
	t.Parallel()
	const canary = "canary-2718281828"
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(canary+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig([]byte(`
[[notify.webhook]]
name = "ops"
url = "https://ops.example/` + canary + `"
secret_file = "` + file + `"
[[notify.service]]
name = "ops"
url = "ntfy://ntfy.example/` + canary + `"
[[notify.telegram]]
name = "team"
token_file = "` + file + `"
chat = -100
`))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	channels, err := c.notices(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, channel := range channels {
		names = append(names, channel.Name())
	}
	if want := "log webhook:ops service:ops telegram:team"; strings.Join(names, " ") != want {
		t.Errorf("channels %v, want %s", names, want)
	}
	for text, want := range map[string]string{
		"[[notify.webhook]]\nurl = \"https://h/" + canary + `"`:                                                          "notify.webhook 1: name: must not be empty",
		"[[notify.webhook]]\nname = \"a\"":                                                                               `notify.webhook "a": url: is missing`,
		"[[notify.webhook]]\nname = \"a\"\nurl = \"" + canary + `"`:                                                      `notify.webhook "a": url: it is no URL`,
		"[[notify.webhook]]\nname = \"a\"\nurl = \"https://h\"\nurl_file = \"/x\"":                                       `notify.webhook "a": url: give it or url_file, not both`,
		"[[notify.webhook]]\nname = \"a\"\nurl_file = \"/nowhere\"":                                                      "url_file: open /nowhere",
		"[[notify.webhook]]\nname = \"a\"\nurl = \"https://h\"\nsecret_file = \"/no\"":                                   "secret_file: open /no",
		"[[notify.service]]\nname = \"a\"\nurl = \"nonesuch://" + canary + `"`:                                           `notify.service "a": url: `,
		"[[notify.telegram]]\nname = \"a\"\ntoken = \"" + canary + `"`:                                                   `notify.telegram "a": chat: `,
		"[[notify.telegram]]\nname = \"a b\"":                                                                            "notify.telegram 1: name: ",
		"[[notify.webhook]]\nnam = \"a\"":                                                                                "line 2: there is no key",
		"[[notify.service]]\nname = \"a\"\nurl = \"ntfy://h/a\"\n[[notify.service]]\nname = \"a\"\nurl = \"ntfy://h/b\"": `notify.service 2: name: there are two channels "a"`,
	} {
		_, err := parseConfig([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s\n\t%v, want %q", text, err, want)
		}
	}
}

// someCertificate is a CA's, as PEM.
func someCertificate(t *testing.T) []byte {
	t.Helper()
	a, err := ca.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Permit([]string{"a.example"}); err != nil {
		t.Fatal(err)
	}
	return a.Bundle()
}
