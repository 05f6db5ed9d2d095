package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"holdfast/journal/journaltest"
)

// wire is a cable between the machines of a master and of a slave: two network
// namespaces, joined by a veth pair. What is done to it is done to packets; nobody
// is told.
type wire struct {
	t             testing.TB
	master, slave *machine
}

// machine is one end of the cable.
type machine struct {
	t    testing.TB
	ns   string // network namespace
	addr string
}

const (
	cable = "cable" // the device, at both ends
	table = "fault" // of nft, likewise
)

// newWire lays the cable, or skips where it cannot.
func newWire(t testing.TB) *wire {
	t.Helper()
	for _, tool := range []string{"ip", "nft", "tc", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			journaltest.SkipOrFail(t, "no "+tool)
		}
	}
	if os.Geteuid() != 0 {
		journaltest.SkipOrFail(t, "network namespaces need root")
	}
	// No other machine can be reached from there, so any addresses will do.
	id := rand.IntN(1 << 24)
	w := &wire{t: t,
		master: &machine{t, fmt.Sprintf("hf%06xm", id), "10.192.0.1"},
		slave:  &machine{t, fmt.Sprintf("hf%06xs", id), "10.192.0.2"},
	}
	for _, m := range []*machine{w.master, w.slave} {
		if out, err := exec.Command("ip", "netns", "add", m.ns).CombinedOutput(); err != nil {
			journaltest.SkipOrFail(t, fmt.Sprintf("ip netns add: %v: %s", err, out))
		}
		t.Cleanup(func() { // and with it the cable
			if out, err := exec.Command("ip", "netns", "delete", m.ns).CombinedOutput(); err != nil {
				t.Errorf("ip netns delete: %v: %s", err, out)
			}
		})
	}
	w.master.able("ip", "link", "add", cable, "type", "veth", "peer", "name", cable, "netns", w.slave.ns)
	for _, m := range []*machine{w.master, w.slave} {
		m.run("ip", "addr", "add", m.addr+"/30", "dev", cable)
		m.run("ip", "link", "set", cable, "up")
		m.run("ip", "link", "set", "lo", "up")
	}
	return w
}

// within is what puts a command on this machine, in front of it. Not ip netns
// exec, which hides the control groups.
func (m *machine) within() []string { return []string{"nsenter", "--net=/run/netns/" + m.ns} }

func (m *machine) try(args ...string) (string, error) {
	line := append(m.within(), args...)
	out, err := exec.Command(line[0], line[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// ask runs a command there and returns what it says.
func (m *machine) ask(args ...string) string {
	m.t.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.t.Error(err)
	}
	return out
}

func (m *machine) run(args ...string) {
	m.t.Helper()
	_ = m.ask(args...)
}

// able is run for what not every kernel can do; it skips where it fails.
func (m *machine) able(args ...string) {
	m.t.Helper()
	if _, err := m.try(args...); err != nil {
		journaltest.SkipOrFail(m.t, err.Error())
	}
}

// filter makes the machine do something with packets that arrive, by the words of
// an nft rule.
func (m *machine) filter(rule ...string) {
	m.t.Helper()
	m.able("nft", "add", "table", "inet", table)
	m.able("nft", "add", "chain", "inet", table, "in", "{ type filter hook input priority 0 ; }")
	m.able(append([]string{"nft", "add", "rule", "inet", table, "in", "iifname", cable}, rule...)...)
}

// filtered is how many packets met a rule that counts.
func (m *machine) filtered() (n int) {
	m.t.Helper()
	_, count, _ := strings.Cut(m.ask("nft", "list", "table", "inet", table), "counter packets ")
	fmt.Sscan(count, &n)
	return n
}

func (m *machine) unfilter() {
	_, _ = m.try("nft", "delete", "table", "inet", table) // there may be none
}

// vanish makes packets to the master (up), to the slave (down), or both, vanish
// as they arrive. A port narrows it to the slave's connection from there, as when
// a box on the way forgets it; 0: all.
func (w *wire) vanish(up, down bool, port int) {
	w.t.Helper()
	drop := func(way string) []string {
		if port == 0 {
			return []string{"counter", "drop"}
		}
		return []string{"tcp", way, strconv.Itoa(port), "counter", "drop"}
	}
	if up {
		w.master.filter(drop("sport")...)
	}
	if down {
		w.slave.filter(drop("dport")...)
	}
}

// heal takes back every filter.
func (w *wire) heal() {
	w.master.unfilter()
	w.slave.unfilter()
}

// ports are those from which the slave is connected to the master.
func (w *wire) ports(master string) (list []int) {
	w.t.Helper()
	_, port, _ := net.SplitHostPort(master)
	number, _ := strconv.Atoi(port)
	for line := range strings.Lines(w.slave.ask("cat", "/proc/net/tcp")) {
		f := strings.Fields(line)
		if len(f) > 3 && f[3] == "01" && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", number)) {
			_, hex, _ := strings.Cut(f[1], ":")
			n, _ := strconv.ParseInt(hex, 16, 32)
			list = append(list, int(n))
		}
	}
	return list
}

// newWiredFarm is a master, and one slave at the other end of a cable.
func newWiredFarm(t testing.TB) (*farm, *wire, *daemon) {
	t.Helper()
	if err := look(); err != nil {
		t.Fatal(err)
	}
	w := newWire(t)
	f := &farm{t: t, dir: t.TempDir(), in: w.master.within()}
	addrFile := filepath.Join(f.dir, "addr")
	listen := w.master.addr + ":7400"
	f.master = begin(&daemon{t: t, name: "master", exe: binary, in: f.in, args: []string{"master", "--data", filepath.Join(f.dir, "master"),
		"--advertise", listen, "--listen", listen, "--http", "127.0.0.1:7480", "--addr-file", addrFile}})
	f.readAddr(addrFile)
	t.Cleanup(func() { killMarked(f.slaveDir("b1")) })
	slave := begin(&daemon{t: t, name: "b1", exe: binary, in: w.slave.within(),
		args: []string{"slave", "--data", f.slaveDir("b1"), "--name", "b1", "--master", listen}})
	f.connected("b1")
	return f, w, slave
}
