package intercept

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/intercept/exchange"
	"github.com/sluice-proxy/sluice/intercept/netns"
	"github.com/sluice-proxy/sluice/intercept/sniff"
	"github.com/sluice-proxy/sluice/pool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition that another goroutine or process brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(time.Millisecond) { // what is waited for needs the processor
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// newCgroup makes a cgroup for the test. It skips for want of root or cgroup v2, which
// SLUICE_KERNEL_TESTS=require turns into a failure.
func newCgroup(t testing.TB) string {
	t.Helper()
	mount, err := cgroup.Mount()
	if err == nil {
		var dir string
		if dir, err = os.MkdirTemp(mount, "sluice-test-"); err == nil {
			t.Cleanup(func() { removeCgroup(dir) })
			return dir
		}
	}
	if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
		t.Fatalf("needs root and cgroup v2: %v", err)
	}
	t.Skipf("needs root and cgroup v2: %v", err)
	return ""
}

func removeCgroup(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeCgroup(filepath.Join(dir, e.Name()))
		}
	}
	for begin := time.Now(); time.Since(begin) < 2*time.Second; runtime.Gosched() {
		if err := os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
}

// originAddr is an address of each test namespace that is not a loopback one.
const originAddr = "192.0.2.1"

// newNetNS makes a network namespace with lo down and originAddr on a link.
func newNetNS(t testing.TB) *netns.NS {
	t.Helper()
	runtime.LockOSThread()
	home, err := vnetns.Get()
	must(t, err)
	handle, err := vnetns.New()
	must(t, err)
	must(t, vnetns.Set(home))
	runtime.UnlockOSThread()
	defer handle.Close()
	defer home.Close()
	n, err := netns.Open("/proc/self/fd/" + strconv.Itoa(int(handle)))
	must(t, err)
	t.Cleanup(func() { n.Close() })
	must(t, n.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "v0"}}
		if err := h.LinkAdd(link); err != nil {
			link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}
			if err := h.LinkAdd(link); err != nil {
				return err
			}
		}
		v0, err := h.LinkByName("v0")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(originAddr + "/24")
		if err != nil {
			return err
		}
		return errors.Join(h.AddrAdd(v0, a), h.LinkSetUp(v0))
	}))
	return n
}

// startIn runs a process in a cgroup and a namespace (nil: ours), until stop is called.
func startIn(t testing.TB, dir string, n *netns.NS) (pid int, stop func()) {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	cmd := exec.Command("cat")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	in, err := cmd.StdinPipe()
	must(t, err)
	if n == nil {
		must(t, cmd.Start())
	} else {
		must(t, n.Do(cmd.Start)) // the child inherits the thread's namespace
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			in.Close()
			_ = cmd.Wait()
		})
	}
	t.Cleanup(stop)
	return cmd.Process.Pid, stop
}

// ledger stands for the kernel side where a test is about what the daemon does with it:
// it keeps what was set, and hands out the flows that a test entered.
type ledger struct {
	mu        sync.Mutex
	attached  map[uint64]string
	listeners map[uint64]bpf.Listener
	flows     map[netip.AddrPort]bpf.Flow // by peer
	ports     []uint16
	refused   map[uint64]uint64
	fail      map[string]error // by method
	events    chan bpf.EventNoListener
	closed    chan struct{}
	close     sync.Once
}

func newLedger() *ledger {
	return &ledger{
		attached: map[uint64]string{}, listeners: map[uint64]bpf.Listener{},
		flows: map[netip.AddrPort]bpf.Flow{}, fail: map[string]error{},
		events: make(chan bpf.EventNoListener), closed: make(chan struct{}),
	}
}

func (l *ledger) Attach(path string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	id, err := cgroup.ID(path)
	if err == nil {
		err = l.fail["attach"]
	}
	if err == nil {
		l.attached[id] = path
	}
	return err
}

func (l *ledger) Detach(path string) error {
	id, err := cgroup.ID(path)
	if err != nil {
		return err
	}
	return l.DetachID(id)
}

func (l *ledger) DetachID(id uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.attached, id)
	return nil
}

func (l *ledger) Attachments() ([]bpf.Attachment, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []bpf.Attachment
	for id, path := range l.attached {
		_, err := os.Stat(path)
		list = append(list, bpf.Attachment{CgroupID: id, Live: err == nil})
	}
	return list, nil
}

func (l *ledger) Missing(path string) ([]string, error) {
	id, err := cgroup.ID(path)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.attached[id] == "" {
		return []string{"connect4"}, nil
	}
	return nil, nil
}

func (l *ledger) SetListener(cookie uint64, v bpf.Listener) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.fail["listener"]; err != nil {
		return err
	}
	l.listeners[cookie] = v
	return nil
}

func (l *ledger) DeleteListener(cookie uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.listeners, cookie)
	return nil
}

func (l *ledger) Listeners() (map[uint64]bpf.Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.listeners), nil
}

func (l *ledger) SetPorts(ports []uint16) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports = slices.Clone(ports)
	return nil
}

func (l *ledger) Take(cookie uint64, peer, _ netip.AddrPort) (bpf.Flow, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.flows[peer]
	delete(l.flows, peer)
	return f, ok && f.Cookie == cookie, nil
}

func (l *ledger) Sweep(time.Duration) (int, error) { return 0, nil }

func (l *ledger) SharesRefused() (map[uint64]uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.refused), l.fail["shares"]
}

func (l *ledger) Read() (bpf.EventNoListener, error) {
	select {
	case e := <-l.events:
		if e == (bpf.EventNoListener{}) {
			return e, errors.New("not readable")
		}
		return e, nil
	case <-l.closed:
		return bpf.EventNoListener{}, os.ErrClosed
	}
}

func (l *ledger) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

func (l *ledger) listener(cookie uint64) (bpf.Listener, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := l.listeners[cookie]
	return v, ok
}

func (l *ledger) counts() (attached, listeners int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.attached), len(l.listeners)
}

func (l *ledger) set(method string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail[method] = err
}

// routes binds hosts to a pool named after the first label.
type routes struct {
	mu      sync.Mutex
	hosts   []string
	ports   []uint16
	changed chan struct{}
}

func (r *routes) Route(host string, port uint16, pools []string) (pool.Route, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.hosts, host) || !slices.Contains(r.ports, port) || (len(pools) > 0 && !slices.Contains(pools, "p")) {
		return pool.Route{}, false
	}
	return pool.Route{Pool: "p", Host: host, Port: port}, true
}

func (r *routes) Ports() []uint16 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ports)
}

func (r *routes) PortsChanged() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

func (r *routes) bind(port uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ports = append(r.ports, port)
	close(r.changed)
	r.changed = make(chan struct{})
}

// desk notes what the exchange was given, and answers it with a line.
type desk struct {
	mu     sync.Mutex
	served []exchange.Upstream
	closed []uint64
}

func (d *desk) Serve(_ context.Context, c *net.TCPConn, _ sniff.Hello, u exchange.Upstream, _ pool.Route, _ *exchange.Share) {
	d.mu.Lock()
	d.served = append(d.served, u)
	d.mu.Unlock()
	fmt.Fprintf(c, "served %s\n", u.Host)
	c.Close()
}

func (d *desk) CloseNetNS(cookie uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = append(d.closed, cookie)
}

func (d *desk) Drain() {}

func (d *desk) Shutdown(context.Context) error { return nil }

// memory keeps targets for the next run of a test.
type memory struct {
	mu   sync.Mutex
	rows map[string]Target
	fail error
}

func (m *memory) Save(_ context.Context, t Target) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		m.rows[t.ID] = t
	}
	return m.fail
}

func (m *memory) Delete(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.rows, id)
	return nil
}

func (m *memory) List(context.Context) ([]Target, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Target
	for _, t := range m.rows {
		list = append(list, t)
	}
	return list, nil
}

func (m *memory) len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.rows)
}

// bench is an Interceptor with what it works with.
type bench struct {
	*Interceptor
	kernel *ledger
	routes *routes
	desk   *desk
	memory *memory
	stop   func() // ends Run and waits for it
}

// newBench starts an Interceptor on a ledger; edit may be nil. It is stopped with the test.
func newBench(t testing.TB, edit func(*bench, *Options)) *bench {
	t.Helper()
	b := &bench{
		kernel: newLedger(), desk: &desk{}, memory: &memory{rows: map[string]Target{}},
		routes: &routes{hosts: []string{"bound.test"}, ports: []uint16{443}, changed: make(chan struct{})},
	}
	opts := Options{
		Routes: b.routes, Dialer: NewDialer(time.Minute),
		Log:     slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Silence: 50 * time.Millisecond, HelloTimeout: 300 * time.Millisecond, Idle: 300 * time.Millisecond,
		Drain: 300 * time.Millisecond,
	}
	if edit != nil {
		edit(b, &opts)
	}
	opts.Exchange, opts.Memory = b.desk, b.memory
	if opts.Hooks == nil {
		opts.Hooks, opts.Listeners, opts.Flows, opts.Events = b.kernel, b.kernel, b.kernel, b.kernel
	}
	var err error
	b.Interceptor, err = New(opts)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	var once sync.Once
	b.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(b.stop)
	<-b.Ready()
	return b
}
