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
	"time"

	"holdfast/journal/journaltest"
)

// wire is a slave's machine with a cable of its own: a network namespace, joined
// by a veth pair. Packets on it can be made to vanish; nobody is told.
type wire struct {
	t        testing.TB
	ns       string // the slave's
	near     string // our end of the cable, and the name of our table
	addr, to string // of the master and of the slave
}

// newWire lays the cable, or skips where it cannot.
func newWire(t testing.TB) *wire {
	t.Helper()
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			journaltest.SkipOrFail(t, "no "+tool)
		}
	}
	if os.Geteuid() != 0 {
		journaltest.SkipOrFail(t, "network namespaces need root")
	}
	id, block := rand.IntN(1<<24), rand.IntN(1<<14)
	net := fmt.Sprintf("10.%d.%d.%d", 192+block>>12, block>>4&255, block&15*16)
	last := strings.LastIndexByte(net, '.') + 1
	first, _ := strconv.Atoi(net[last:])
	w := &wire{t: t, ns: fmt.Sprintf("hf%06x", id), near: fmt.Sprintf("hfv%06x", id)}
	w.addr, w.to = fmt.Sprintf("%s%d", net[:last], first+1), fmt.Sprintf("%s%d", net[:last], first+2)
	if out, err := exec.Command("ip", "netns", "add", w.ns).CombinedOutput(); err != nil {
		journaltest.SkipOrFail(t, fmt.Sprintf("ip netns add: %v: %s", err, out))
	}
	t.Cleanup(func() {
		_ = exec.Command("nft", "delete", "table", "inet", w.near).Run() // there may be none
		w.run("ip", "netns", "delete", w.ns)                             // and with it the cable
	})
	w.run("ip", "link", "add", w.near, "type", "veth", "peer", "name", "cable", "netns", w.ns)
	w.run("ip", "addr", "add", w.addr+"/30", "dev", w.near)
	w.run("ip", "link", "set", w.near, "up")
	w.inside("ip", "addr", "add", w.to+"/30", "dev", "cable")
	w.inside("ip", "link", "set", "cable", "up")
	w.inside("ip", "link", "set", "lo", "up")
	return w
}

func (w *wire) run(name string, args ...string) {
	w.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		w.t.Errorf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func (w *wire) inside(args ...string) {
	w.t.Helper()
	w.run("ip", append([]string{"netns", "exec", w.ns}, args...)...)
}

// vanish makes packets to the master (up), to the slave (down), or both, vanish
// as they arrive. A port narrows it to the slave's connection from there, as when
// a box on the way forgets it; 0: all.
func (w *wire) vanish(up, down bool, port int) {
	w.t.Helper()
	rule := func(way string) string {
		if port == 0 {
			return "drop"
		}
		return fmt.Sprintf("tcp %s %d drop", way, port)
	}
	if up {
		w.run("nft", "add", "table", "inet", w.near)
		w.run("nft", "add", "chain", "inet", w.near, "in", "{ type filter hook input priority 0 ; }")
		w.run("nft", append([]string{"add", "rule", "inet", w.near, "in", "iifname", w.near}, strings.Fields(rule("sport"))...)...)
	}
	if down {
		w.inside("nft", "add", "table", "inet", w.near)
		w.inside("nft", "add", "chain", "inet", w.near, "in", "{ type filter hook input priority 0 ; }")
		w.inside(append([]string{"nft", "add", "rule", "inet", w.near, "in", "iifname", "cable"}, strings.Fields(rule("dport"))...)...)
	}
}

func (w *wire) heal() {
	_ = exec.Command("nft", "delete", "table", "inet", w.near).Run()
	_ = exec.Command("ip", "netns", "exec", w.ns, "nft", "delete", "table", "inet", w.near).Run()
}

// ports are those from which the slave is connected to the master.
func (w *wire) ports(master string) (list []int) {
	w.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", w.ns, "cat", "/proc/net/tcp").Output()
	if err != nil {
		w.t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(master)
	number, _ := strconv.Atoi(port)
	for line := range strings.Lines(string(out)) {
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
func newWiredFarm(t testing.TB) (*farm, *wire) {
	t.Helper()
	if err := look(); err != nil {
		t.Fatal(err)
	}
	w := newWire(t)
	f := &farm{t: t, dir: t.TempDir()}
	addrFile := filepath.Join(f.dir, "addr")
	listen := fmt.Sprintf("%s:%d", w.addr, 10_000+rand.IntN(20_000))
	f.master = startDaemon(t, "master", "master", "--data", filepath.Join(f.dir, "master"), "--advertise", listen,
		"--listen", listen, "--http", loopback(), "--addr-file", addrFile)
	f.readAddr(addrFile)
	log, err := os.Create(filepath.Join(t.TempDir(), "b1.log"))
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, name: "b1", log: log}
	d.cmd = exec.Command("ip", "netns", "exec", w.ns, binary, "slave", "--data", f.slaveDir("b1"), "--name", "b1", "--master", listen)
	d.run()
	t.Cleanup(func() {
		d.kill()
		killMarked(f.slaveDir("b1"))
		if t.Failed() {
			t.Logf("--- log of b1\n%s", d.output())
		}
		log.Close()
	})
	f.connected("b1")
	return f, w
}

// T-blackhole, P-stall: the packets of one connection vanish, one way or both,
// while the slave has something to say: it does not wait for keepalive, its next
// session wins, and the build does not notice.
func TestBlackhole(t *testing.T) {
	t.Parallel()
	for name, way := range map[string][2]bool{"up": {true, false}, "down": {false, true}, "both ways": {true, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, w := newWiredFarm(t)
			id := f.submit(counting(60, "0.1"))
			f.underway(id, 3)
			before, ports := f.slaves()[0], w.ports(f.addr)
			if len(ports) != 1 {
				t.Fatalf("the slave has connections from %v", ports)
			}
			began := time.Now()
			w.vanish(way[0], way[1], ports[0])
			eventually(t, 20*time.Second, "another session", func() bool {
				s := f.slaves()
				return len(s) == 1 && s[0].Epoch > before.Epoch && s[0].State == "connected"
			})
			took := time.Since(began)
			t.Logf("another session after %v", took.Round(10*time.Millisecond))
			if took > 15*time.Second { // keepalive takes up to 25
				t.Errorf("it took %v: longer than a stall and a dial", took)
			}
			b := f.settled(id, 30*time.Second, "succeeded", "failed")
			eventually(t, 20*time.Second, "the whole log", func() bool { b = f.show(id); return b.Attempts[0].Steps[0].LogState == "complete" })
			oneAttempt(t, b)
			wantCount(t, f.lines(id), 60)
		})
	}
}

// T-blackhole, P-alive: all packets vanish, one way or both. Each end notices
// within twice the time of keepalive, the master shows the slave as away, and
// after it the build is still attempt 1.
func TestBlackholeOfAll(t *testing.T) {
	if !slow {
		t.Skip("takes keepalive's 25 s: HOLDFAST_SLOW=1; in virtual time it is sim.TestBlackhole")
	}
	t.Parallel()
	for name, way := range map[string][2]bool{"up": {true, false}, "down": {false, true}, "both ways": {true, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, w := newWiredFarm(t)
			id := f.submit(counting(1000, "0.1"))
			f.underway(id, 3)
			before, port := f.slaves()[0], w.ports(f.addr)
			began := time.Now()
			w.vanish(way[0], way[1], 0)
			eventually(t, 50*time.Second, "the master shows it as away", func() bool { return f.slaves()[0].State == "away" })
			t.Logf("the master noticed after %v", time.Since(began).Round(time.Second))
			eventually(t, 50*time.Second-time.Since(began), "the slave gives its connection up", func() bool {
				now := w.ports(f.addr)
				return len(now) != 1 || now[0] != port[0]
			})
			w.heal()
			eventually(t, 30*time.Second, "another session", func() bool {
				s := f.slaves()
				return s[0].State == "connected" && s[0].Epoch > before.Epoch
			})
			b := f.settled(id, 3*time.Minute, "succeeded", "failed")
			eventually(t, 20*time.Second, "the whole log", func() bool { b = f.show(id); return b.Attempts[0].Steps[0].LogState == "complete" })
			oneAttempt(t, b)
			wantCount(t, f.lines(id), 1000)
		})
	}
}
