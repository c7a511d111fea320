package intercept

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/intercept/cgroup"
)

// TestWaysRound are those of the known ways round that need more than the programs: the
// rest are tests of package bpf and of intercept/exchange, under the same numbers.
func TestWaysRound(t *testing.T) {
	newCgroup(t) // skips, or fails, where there can be none
	t.Run("case_21_connection_older_than_the_attach", TestOlderConnectionsAreClosedByAttach)
	t.Run("case_29_straight_to_the_listener", connectToTheListenerItselfIsClosed)
	t.Run("case_29_from_inside_and_outside_the_cgroup", outsiderAtTheListenerIsClosed)
	t.Run("case_29_by_every_name_of_loopback", listenerByOtherNames)
	t.Run("case_34_cgroup_removed_and_made_again", TestRemovedAndMadeAgainIsReportedAndAttached)
	t.Run("case_35_attached_twice", TestAttachTwiceIsTheSameTarget)
	t.Run("case_35_parent_and_child", TestNestedCgroupsAreRefused)
	t.Run("case_36_root_and_our_own_cgroup", func(t *testing.T) {
		mount, err := cgroup.Mount()
		must(t, err)
		b := newBench(t, onKernel(t, newRedirect(t)))
		own, err := cgroup.OfPID(os.Getpid())
		must(t, err)
		for _, dir := range []string{mount, own} {
			if _, err := b.Attach(t.Context(), Request{Cgroup: dir}); err == nil {
				t.Errorf("attached to %s", dir)
			}
		}
		if len(b.Targets()) != 0 {
			t.Errorf("targets %v", b.Targets())
		}
	})
	t.Run("case_43_half_close", halfCloseIsKept)
	t.Run("case_43_half_close_through_the_programs", halfCloseOnKernel)
	t.Run("case_43_byte_at_a_time", byteAtATimeIsBounded)
	t.Run("case_43_three_segments", boundHostGoesToTheExchange)
	t.Run("case_43_reset_inside_the_client_hello", resetInsideTheHello)
	t.Run("case_43_client_hellos", unusualHellos)
	t.Run("case_44_server_speaks_first", serverThatSpeaksFirst)
	t.Run("case_44_server_speaks_first_through_the_programs", func(t *testing.T) {
		r := newRoad(t, func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "SSH-2.0-test\r\n")
			_, _ = io.Copy(c, c)
		})
		got := r.python(t, "s.recv(99); s.sendall(b'hello'); print(s.recv(99).decode(), end='')")
		if got != "hello" || r.Counters().Spliced != 1 {
			t.Errorf("got %q; counters %+v", got, r.Counters())
		}
	})
}

// road is a street whose clients are processes that the real programs redirect.
type road struct {
	*street
	dir string
}

func newRoad(t *testing.T, handle func(*net.TCPConn)) *road {
	t.Helper()
	s := newStreet(t, onKernel(t, newRedirect(t)), handle)
	return &road{street: s, dir: s.target.Cgroup}
}

// python runs a script in which s is a socket connected to the origin.
func (r *road) python(t *testing.T, script string) string {
	t.Helper()
	return shell(t, r.dir, r.ns, `python3 -c "`+
		"import socket; s = socket.create_connection(('"+originAddr+"', 443), 5); "+script+`"`)
}

func halfCloseOnKernel(t *testing.T) {
	r := newRoad(t, func(c *net.TCPConn) {
		all, _ := io.ReadAll(c) // ends only with the client's half
		_, _ = io.WriteString(c, strings.ToUpper(string(all)))
	})
	got := r.python(t, "s.sendall(b'half'); s.shutdown(socket.SHUT_WR); print(s.recv(99).decode(), end='')")
	if got != "HALF" {
		t.Errorf("got %q", got)
	}
}

// listenerByOtherNames connects a process of the cgroup to the listener through every address
// that ends there. 127.0.0.2 is not listened on.
func listenerByOtherNames(t *testing.T) {
	dialled := make(chan struct{}, 10)
	r := newRoad(t, func(*net.TCPConn) { dialled <- struct{}{} })
	published, err := r.Interceptor.opts.Listeners.Listeners()
	must(t, err)
	l := published[r.ns.Cookie()]
	closed := 0
	for _, c := range []struct {
		host     string
		port     uint16
		listened bool
	}{
		{"127.0.0.1", l.Port4, true},
		{"0.0.0.0", l.Port4, true},
		{"::ffff:127.0.0.1", l.Port4, true},
		{"::1", l.Port6, true},
		{"::", l.Port6, true},
		{"127.0.0.2", l.Port4, false},
	} {
		got := shell(t, r.dir, r.ns, fmt.Sprintf("exec 3<>/dev/tcp/%s/%d && echo hello >&3 && cat <&3", c.host, c.port))
		if strings.Contains(got, "hello") || strings.Contains(got, "refused") == c.listened {
			t.Errorf("%s: %q", c.host, got)
		}
		if c.listened {
			closed++
		}
		eventually(t, "counted", func() bool { return r.Counters().Unsolicited == uint64(closed) })
	}
	if n := r.Counters(); len(dialled) != 0 || n.Spliced+n.Terminated != 0 {
		t.Errorf("dialled on: %+v", n)
	}
}

func resetInsideTheHello(t *testing.T) {
	dialled := make(chan struct{}, 10)
	s := newStreet(t, nil, func(*net.TCPConn) { dialled <- struct{}{} })
	hello := clientHello(t, "bound.test")
	for _, cut := range []int{1, 5, 60, len(hello) - 1} {
		c := s.connect(s.origin443())
		_, err := c.Write(hello[:cut])
		must(t, err)
		must(t, c.SetLinger(0))
		must(t, c.Close())
	}
	eventually(t, "all four are over", func() bool {
		n := s.Counters()
		return n.Lost+n.CutShort == 4 && s.Connections() == 0
	})
	if len(dialled) != 0 {
		t.Error("the origin was dialled")
	}
}

// unusualHellos are all valid: they must go where their name says, whole.
func unusualHellos(t *testing.T) {
	const serverName, padding, ech = 0, 21, 0xfe0d
	address := append([]byte{0, 12, 0, 0, 9}, originAddr...)
	plain, nameless := clientHello(t, "bound.test"), clientHello(t, "")
	for _, c := range []struct {
		name  string
		hello []byte
		bound bool
	}{
		{"above 16 KiB", extended(plain, padding, make([]byte, 20000)), true},
		{"ECH GREASE", extended(plain, ech, slices.Repeat([]byte{7}, 200)), true},
		{"an extension nobody knows", extended(plain, 0x3a3a, []byte{0}), true},
		{"no name", nameless, false},
		{"an address for a name", extended(nameless, serverName, address), false},
		{"an unbound name", clientHello(t, "front.test"), false},
	} {
		arrived := make(chan []byte, 1)
		s := newStreet(t, func(_ *bench, o *Options) { o.Idle, o.HelloTimeout = 5*time.Second, 5*time.Second }, func(conn *net.TCPConn) {
			got := make([]byte, len(c.hello))
			_, _ = io.ReadFull(conn, got)
			arrived <- got
		})
		conn := s.connect(s.origin443())
		_, err := conn.Write(c.hello)
		must(t, err)
		if c.bound {
			if got, _ := io.ReadAll(conn); string(got) != "served bound.test\n" {
				t.Errorf("%s: answered %q; counters %+v", c.name, got, s.Counters())
			}
			// The connection goes to where the client meant, the credential to whoever proves to be bound.test there.
			if u := s.desk.served[0]; u.Host != "bound.test" || u.Addr.String() != s.origin443() {
				t.Errorf("%s: upstream %+v", c.name, u)
			}
			continue
		}
		if got := <-arrived; !slices.Equal(got, c.hello) || s.Counters().Terminated != 0 {
			t.Errorf("%s: not passed on as it was; counters %+v", c.name, s.Counters())
		}
	}
}

// extended adds an extension to a ClientHello and cuts it into records anew (RFC 8446 sections 4.1.2, 5.1).
func extended(hello []byte, kind uint16, data []byte) []byte {
	body := slices.Clone(hello[5:])
	at := 4 + 2 + 32
	at += 1 + int(body[at])
	at += 2 + int(binary.BigEndian.Uint16(body[at:]))
	at += 1 + int(body[at])
	extensions := body[at+2:]
	extensions = binary.BigEndian.AppendUint16(extensions, kind)
	extensions = binary.BigEndian.AppendUint16(extensions, uint16(len(data)))
	extensions = append(extensions, data...)
	body = binary.BigEndian.AppendUint16(body[:at:at], uint16(len(extensions)))
	body = append(body, extensions...)
	body[1], body[2], body[3] = byte((len(body)-4)>>16), byte((len(body)-4)>>8), byte(len(body)-4)
	var records []byte
	for part := range slices.Chunk(body, 1<<14) {
		records = append(records, 22, 3, 1)
		records = binary.BigEndian.AppendUint16(records, uint16(len(part)))
		records = append(records, part...)
	}
	return records
}
