package reset

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBuiltInProfile(t *testing.T) {
	t.Parallel()
	p, err := Profiles{}.Find("")
	if err != nil || p.Name != "hermes" || p.UID != 10000 || p.GID != 10000 || p.Timeout != 30*time.Second || len(p.CheckFiles) == 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	if got := fill(p.Argv, "openai-codex"); !slices.Equal(got, []string{"hermes", "auth", "reset", "openai-codex"}) {
		t.Errorf("%q", got)
	}
	if p.Argv[3] != targetMark {
		t.Error("filling changed the profile")
	}
	if _, err := (Profiles{}).Find("openclaw"); err == nil || !strings.Contains(err.Error(), `"openclaw"`) || !strings.Contains(err.Error(), "hermes") {
		t.Errorf("an unknown profile: %v", err)
	}
}

func TestOwnProfiles(t *testing.T) {
	t.Parallel()
	p, err := NewProfiles([]Profile{
		{Name: "claw", Argv: []string{"claw", "--reset={target}", "a; b"}, UID: 1000, GID: 1000, Timeout: time.Second},
		{Name: "hermes", Argv: []string{"/opt/hermes", "reset"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	claw, err := p.Find("claw")
	if err != nil || !slices.Equal(fill(claw.Argv, "x"), []string{"claw", "--reset=x", "a; b"}) || claw.Timeout != time.Second {
		t.Errorf("%+v, %v", claw, err)
	}
	if own, err := p.Find("hermes"); err != nil || own.Argv[0] != "/opt/hermes" {
		t.Errorf("the built-in one is not replaced: %+v, %v", own, err)
	}
}

func TestBadProfiles(t *testing.T) {
	t.Parallel()
	good := []string{"x"}
	for want, p := range map[string]Profile{
		"argv: the command is missing":  {},
		"argv: the first":               {Argv: []string{""}},
		"argv: the first is":            {Argv: []string{"{target}"}},
		"argv: has 65":                  {Argv: make([]string, 65)},
		"argv: an argument has":         {Argv: []string{"x", strings.Repeat("y", 4097)}},
		"NUL":                           {Argv: []string{"x", "a\x00b"}},
		"check: the first":              {Argv: good, Check: []string{""}},
		"environment:":                  {Argv: good, Environment: map[string]string{"A=B": ""}},
		"timeout:":                      {Argv: good, Timeout: time.Hour},
		"timeout: -1s":                  {Argv: good, Timeout: -time.Second},
		"check_files: \"auth.json\"":    {Argv: good, CheckFiles: []string{"auth.json"}},
		"check_files: \"\"":             {Argv: good, CheckFiles: []string{""}},
		"check_files: \"$HERMES_HOME\"": {Argv: good, CheckFiles: []string{"$HERMES_HOME"}},
	} {
		p.Name = "x"
		if _, err := NewProfiles([]Profile{p}); err == nil || !strings.Contains(err.Error(), "profile.x: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", p, err, want)
		}
	}
	if _, err := NewProfiles([]Profile{{Name: "a b", Argv: good}}); err == nil {
		t.Error("a name with a space")
	}
	if _, err := NewProfiles([]Profile{{Name: "a", Argv: good}, {Name: "a", Argv: good}}); err == nil {
		t.Error("one name twice")
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	const passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nhermes:x:10000:10000::/opt/data:/bin/sh\nnext:x:10001:1::/x:\n"
	p := Profile{UID: 10000, Environment: map[string]string{"TERM": "dumb", "PATH": "/p"}}
	for name, c := range map[string]struct {
		agent  []string
		passwd string
		want   []string
	}{
		"listed": {[]string{"HOME=/root", "A=1=2", "broken", "=x"}, passwd, []string{"A=1=2", "HOME=/opt/data", "LOGNAME=hermes", "PATH=/p", "TERM=dumb", "USER=hermes"}},
		"bare":   {[]string{"HOME=/srv"}, "", []string{"HOME=/srv", "LOGNAME=10000", "PATH=/p", "TERM=dumb", "USER=10000"}},
		"none":   {nil, "root:x:0:0:root:/root:/bin/sh", []string{"HOME=/", "LOGNAME=10000", "PATH=/p", "TERM=dumb", "USER=10000"}},
	} {
		if got := environment(c.agent, p, userOf([]byte(c.passwd), p.UID)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := valueOf(environment(nil, Profile{}, user{}), "PATH"); got != defaultPath {
		t.Errorf("PATH is %q", got)
	}
	for file, want := range map[string]string{"~/a": "/h/a", "$D/a": "/d/a", "$NONE/a": "", "/x/../a": "/a", "~/../../a": "/a"} {
		if got := placed(file, []string{"HOME=/h", "D=/d"}); got != want {
			t.Errorf("%s is placed at %q, want %q", file, got, want)
		}
	}
}

func TestLatched(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		`{}`:                                0,
		`{"credential_pool":null}`:          0,
		`{"credential_pool":{"other":"x"}}`: 0,
		`{"credential_pool":{"t":[]}}`:      0,
		`{"credential_pool":{"t":[{"last_status":"ok"},{"last_status":null},{}]}}`:                                      0,
		`{"credential_pool":{"t":[{"last_status":"exhausted","last_error_reset_at":1},{"last_status":"exhausted"}]}}`:   2,
		`{"credential_pool":{"o":[{"last_status":"exhausted"}],"t":[{"last_status":"ok"}]},"version":1,"providers":{}}`: 0,
		``:                                     -1,
		`{"credential_pool":`:                  -1,
		`{"credential_pool":{"t":{"a":1}}}`:    -1,
		`{"credential_pool":{"t":["x"]}}`:      -1,
		`[]`:                                   -1,
		`{"credential_pool":{"t":[]}} trailer`: -1,
	} {
		n, err := latched([]byte(text), "t")
		if err != nil {
			n = -1
		}
		if n != want {
			t.Errorf("%s: %d, %v; want %d", text, n, err, want)
		}
	}
}

// FuzzAgentBytes reads what an agent wrote, as data.
func FuzzAgentBytes(f *testing.F) {
	f.Add([]byte(`{"credential_pool":{"t":[{"last_status":"exhausted"}]}}`))
	f.Add([]byte("a:x:10000:1:::\n"))
	f.Add([]byte("\x1b[31mred\xff\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if n, err := latched(text, "t"); err != nil && n != 0 {
			t.Errorf("%d and %v", n, err)
		}
		userOf(text, 10000)
		for _, said := range []string{oneLine(text), lastLine(text)} {
			if len(said) > maxQuoted+3 || strings.ContainsAny(said, "\n\r\x1b\x00") {
				t.Errorf("%q", said)
			}
		}
	})
}
