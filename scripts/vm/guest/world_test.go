//go:build guest

package guest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// The keys that the simulator takes, and what an agent has instead.
const (
	firstKey    = "sk-proj-first-0123456789abcdef"
	secondKey   = "sk-proj-second-0123456789abcdef"
	placeholder = "sk-placeholder"
)

const (
	api   = "https://api.openai.com"
	admin = "http://127.0.0.1:8444"
	// agentLog and boxedLog are what the two agents print: one line a request, as scripts/containerbox/fetch does.
	agentLog, boxedLog = "/var/log/agent.log", "/var/log/boxed.log"
	// wait is between two requests of an agent that is not there for its load: each costs an emulated processor half a second.
	wait = 2 * time.Second
)

// world.service: a network namespace for containers, with a way to the host and no other. The addresses are of the range
// for benchmarks (RFC 2544).
const worldUnit = `[Unit]
Before=sluice.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec 'ip netns add agent; ip link add host0 type veth peer name eth0 netns agent; \
 ip addr add 198.18.0.1/24 dev host0; ip link set host0 up; \
 ip -n agent link set lo up; ip -n agent addr add 198.18.0.2/24 dev eth0; ip -n agent link set eth0 up'
[Install]
WantedBy=multi-user.target
`

const simulatorUnit = `[Unit]
Requires=world.service
After=world.service
Before=sluice.service
[Service]
ExecStart=/root/sluice/simulator -config /root/sluice/simulator.toml
ExecStartPost=/bin/sh -c 'until curl -sf -o /dev/null http://127.0.0.1:8444/ca.pem; do sleep 0.1; done'
[Install]
WantedBy=multi-user.target
`

const simulatorConfig = `listen = ["198.18.0.1:443"]
admin = "127.0.0.1:8444"
ca_file = "/etc/ssl/simulator.pem"
[[credentials]]
name = "first"
secret = "` + firstKey + `"
[[credentials]]
name = "second"
secret = "` + secondKey + `"
`

// agent.service has its own view of the mounts, so it is covered like a container. Each of its requests is a new connection
// of one process, which takes any certificate and says whose it was. It knows nothing of sluice: the drop-in does.
const agentUnit = `[Unit]
After=simulator.service
[Service]
PrivateTmp=yes
ExecStart=/root/sluice/fetch -insecure -patience 5m -times 0 -every %s ` + api + `/v1/models 'Authorization: Bearer ` + placeholder + `'
StandardOutput=append:` + agentLog + `
StandardError=journal
[Install]
WantedBy=multi-user.target
`

// idle.service is attached without a drop-in, and starts when it likes.
const idleUnit = `[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
`

// boxed.service starts a container that asks with a new process each time, which trusts what the image's bundle says by then.
const boxedUnit = `[Unit]
Requires=containerd.service world.service
After=containerd.service world.service sluice.service
Wants=sluice.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStartPre=-/usr/bin/ctr task rm --force boxed
ExecStart=/usr/bin/ctr task start --detach --log-uri file://` + boxedLog + ` boxed
ExecStop=/bin/sh -c 'ctr task kill --signal SIGKILL boxed; until ctr task rm boxed; do sleep 0.1; done'
[Install]
WantedBy=multi-user.target
`

// createBoxed makes the container, which nothing starts yet.
func createBoxed(t *testing.T) {
	t.Helper()
	run(t, "ctr", "containers", "create", "--with-ns", "network:/run/netns/agent", "--env", "OPENAI_API_KEY="+placeholder, "--",
		"sluice.test/agent:latest", "boxed", "/bin/sh", "-c", `trap "exit 0" TERM; while :; do fetch `+api+
			`/v1/models "Authorization: Bearer $OPENAI_API_KEY"; sleep 3; done`)
}

// build makes the world outside of sluice: simulator, agents, names.
func build(t *testing.T) {
	t.Helper()
	for name, text := range map[string]string{"world": worldUnit, "simulator": simulatorUnit, "agent": fmt.Sprintf(agentUnit, wait), "boxed": boxedUnit, "idle": idleUnit} {
		write(t, "/etc/systemd/system/"+name+".service", text)
	}
	write(t, files+"/simulator.toml", simulatorConfig)
	write(t, "/etc/hosts", "127.0.0.1 localhost sluice-guest\n::1 localhost\n198.18.0.1 api.openai.com\n")
	run(t, "systemctl", "daemon-reload")
	run(t, "systemctl", "enable", "--now", "world", "simulator")
	run(t, "systemctl", "enable", "agent", "boxed", "idle")
	run(t, "ctr", "images", "import", files+"/agent.tar")
}

// spend has the simulator refuse a key for a time, from now on.
func spend(t *testing.T, name string, d time.Duration) {
	t.Helper()
	post(t, "/credentials/"+name+"/spend", fmt.Sprintf(`{"for":%q}`, d))
}

// restore gives a key its quota back.
func restore(t *testing.T, name string) {
	t.Helper()
	post(t, "/credentials/"+name+"/restore", "{}")
}

func post(t *testing.T, path, body string) {
	t.Helper()
	resp, err := http.Post(admin+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if said, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusNoContent {
		t.Fatalf("POST %s: %s: %s", path, resp.Status, said)
	}
}

// arrived is a request as the simulator saw it.
type arrived struct {
	Seq        uint64
	Credential string
	Status     int
	Presented  []struct{ Where, Credential string }
}

// arrivals are the requests that the simulator got after seq.
func arrivals(t *testing.T, seq uint64) []arrived {
	t.Helper()
	resp, err := http.Get(fmt.Sprintf("%s/journal?since=%d", admin, seq))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var all []arrived
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		t.Fatal(err)
	}
	return all
}

// lastArrival is the newest request's number.
func lastArrival(t *testing.T) uint64 {
	t.Helper()
	all := arrivals(t, 0)
	if len(all) == 0 {
		return 0
	}
	return all[len(all)-1].Seq
}

// mark is a place in an agent's log.
type mark struct {
	file string
	at   int64
}

func markOf(file string) mark {
	info, err := os.Stat(file)
	if err != nil {
		return mark{file: file}
	}
	return mark{file, info.Size()}
}

// since are the whole lines that were added.
func (m mark) since(t *testing.T) []string {
	t.Helper()
	text := read(t, m.file)
	if int64(len(text)) < m.at {
		t.Fatalf("%s was cut", m.file)
	}
	lines := strings.Split(text[m.at:], "\n")
	return lines[:len(lines)-1]
}

// intercepted reports whether a line of a log is of an answer that came through sluice.
func intercepted(line string) bool { return strings.Contains(line, ` "sluice CA`) }

// served waits until an agent has got n more good answers, all through sluice.
func served(t *testing.T, file string, n int) {
	t.Helper()
	m := markOf(file)
	eventually(t, file+" has good answers", func() string {
		lines := m.since(t)
		good := 0
		for _, line := range lines {
			if strings.HasPrefix(line, "200 ") && intercepted(line) {
				good++
			}
		}
		if good >= n {
			return ""
		}
		return fmt.Sprintf("%d of %d:\n%s", good, n, strings.Join(lines, "\n"))
	})
}

// sound says what became of the requests since a mark, and fails for those that went around sluice, or were answered by
// anything but 200 and 429.
func (m mark) sound(t *testing.T) (good int, refused []string) {
	t.Helper()
	for _, line := range m.since(t) {
		switch {
		case strings.HasPrefix(line, "error: "):
			refused = append(refused, line)
		case !intercepted(line):
			t.Errorf("%s: not through sluice: %s", m.file, line)
		case strings.HasPrefix(line, "200 "):
			good++
		case !strings.HasPrefix(line, "429 "):
			t.Errorf("%s: %s", m.file, line)
		}
	}
	return good, refused
}

// placeholdersOnly fails if any request since seq reached the upstream with what the agent holds, or with two credentials.
func placeholdersOnly(t *testing.T, seq uint64) {
	t.Helper()
	for _, a := range arrivals(t, seq) {
		if !slices.Contains([]string{"first", "second"}, a.Credential) || len(a.Presented) != 1 {
			t.Errorf("the upstream was shown %v (%q)", a.Presented, a.Credential)
		}
	}
}

// hermes has the stand-in in the container do something, as its user.
func hermes(t *testing.T, args ...string) (string, int) {
	t.Helper()
	id := fmt.Sprintf("ask%d", time.Now().UnixNano())
	argv := []string{"ctr", "task", "exec", "--user", "10000:10000", "--exec-id", id, "boxed", "/bin/env", "HOME=/home/agent", "hermes"}
	return try(append(argv, args...)...)
}
