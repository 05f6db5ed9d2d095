package notify_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
)

// service runs the notification service over h.
func service(t *testing.T, h *history, change func(*notify.ServiceConfig)) (addr string, stop func()) {
	t.Helper()
	cfg := notify.ServiceConfig{
		Feed: h.start(t), Hub: &h.hub, StoreID: "STORE", Logger: slog.New(slog.DiscardHandler),
		Admit: func() (func(), error) { return func() {}, nil },
	}
	if change != nil {
		change(&cfg)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- notify.NewService(cfg).Serve(ctx, l) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		ended <- nil
	}
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// tool is a client such as a person with nc.
type tool struct {
	testing.TB
	net.Conn
	in *bufio.Reader
}

func dial(t testing.TB, addr string) *tool {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return &tool{TB: t, Conn: c, in: bufio.NewReader(c)}
}

func (c *tool) say(line string) *tool {
	c.Helper()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		c.Fatal(err)
	}
	return c
}

func (c *tool) line() string {
	c.Helper()
	line, err := c.in.ReadString('\n')
	if err != nil {
		c.Fatalf("%q: %v", line, err)
	}
	return strings.TrimSuffix(line, "\n")
}

func (c *tool) hear(want string) *tool {
	c.Helper()
	if got := c.line(); got != want {
		c.Errorf("heard %q, want %q", got, want)
	}
	return c
}

// dropped checks that the last words have these in them.
func (c *tool) dropped(words string) {
	c.Helper()
	rest, err := io.ReadAll(c.in)
	if err != nil && !strings.Contains(string(rest), words) {
		c.Errorf("dropped with %v", err)
	}
	lines := strings.Split(strings.TrimSuffix(string(rest), "\n"), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "ERR ") || !strings.Contains(last, words) {
		c.Errorf("dropped with %q, want %q", last, words)
	}
}

var at = time.Date(2026, 11, 23, 18, 0, 0, 123456789, time.UTC)

func TestService(t *testing.T) {
	t.Parallel()
	h := &history{}
	build := lifecycle.BuildID(ulid.Make().String())
	h.add(
		lifecycle.Event{At: at, Topic: "build.queued", Build: build, Who: "ann", Why: "a <b>\nc", Data: map[string]any{"priority": 3}},
		lifecycle.Event{At: at, Topic: "slave.away", Slave: "b7"},
	)
	addr, stop := service(t, h, nil)
	queued := `EVT 1 build.queued {"n":1,"at":"2026-11-23T18:00:00.123Z","topic":"build.queued","build_id":"` + string(build) +
		`","attempt_id":null,"step_id":null,"slave":null,"who":"ann","why":"a <b>\nc","data":{"priority":3}}`
	away := `EVT 2 slave.away {"n":2,"at":"2026-11-23T18:00:00.123Z","topic":"slave.away","build_id":null,"attempt_id":null,"step_id":null,"slave":"b7","who":null,"why":null,"data":{}}`
	dial(t, addr).say("SUB * SINCE 0").hear("OK 2 STORE").hear(queued).hear(away)
	dial(t, addr).say("SUB slave build.shelved SINCE 0").hear("OK 2 STORE").hear(away).say("PING").hear("PONG")
	dial(t, addr).say("  SUB   " + string(build) + " SINCE 0 \r").hear("OK 2 STORE").hear(queued)
	dial(t, addr).say("AUTH x").hear("OK").say("").say("SUB build SINCE 3").hear("ERR reset").say("SUB build SINCE 2").hear("OK 2 STORE")

	now := dial(t, addr).say("SUB build").hear("OK 2 STORE")
	h.prune(1, 1)
	dial(t, addr).say("SUB * SINCE 0").hear("OK 2 STORE").hear("GAP 1 1").hear(away)
	h.add(lifecycle.Event{At: at, Topic: "build.shelved"})
	if got := now.line(); !strings.HasPrefix(got, "EVT 3 build.shelved {") {
		t.Errorf("live: %q", got)
	}
	// nc, which ends its side when its standard input ends.
	half := dial(t, addr).say("SUB build SINCE 2")
	if err := half.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	half.line()
	half.line()
	h.add(lifecycle.Event{At: at, Topic: "build.failed"})
	for _, c := range []*tool{half, now} {
		if got := c.line(); !strings.HasPrefix(got, "EVT 4 build.failed {") {
			t.Errorf("live: %q", got)
		}
	}

	hints := h.hub.Subscribe(notify.Key{Kind: notify.Commands})
	defer hints.Close()
	<-hints.C
	dial(t, addr).say("PUB commands").hear("OK")
	<-hints.C

	stop()
	now.dropped("the master is stopping; connect again")
}

func TestServiceRefuses(t *testing.T) {
	t.Parallel()
	h := &history{}
	addr, _ := service(t, h, nil)
	for line, want := range map[string]string{
		"SUB":                             "ERR SUB what? Say SUB * for all, or topics such as build or build.shelved, or the id of a build",
		"SUB Build":                       `ERR "Build" is neither a topic nor the id of a build: expected a prefix such as build or build.shelved, or * for all`,
		"SUB SINCE 3":                     "ERR SUB what? Say SUB * for all, or topics such as build or build.shelved, or the id of a build",
		"SUB * SINCE":                     "ERR expected one number after SINCE, at the end",
		"SUB * SINCE x":                   `ERR SINCE "x": expected a number`,
		"SUB * SINCE -1":                  `ERR SINCE "-1": expected a number`,
		"SUB SINCE 3 build":               "ERR expected one number after SINCE, at the end",
		"SUB * SINCE 1":                   "ERR reset",
		"PUB":                             "ERR expected PUB commands",
		"PUB events":                      "ERR expected PUB commands",
		"sub *":                           `ERR "sub" is no request; there are SUB, PUB, PING and AUTH, in capitals`,
		"GET / HTTP/1.1":                  `ERR "GET" is no request; there are SUB, PUB, PING and AUTH, in capitals`,
		"\x00\x1b[31m\xff":                `ERR "??[31m�" is no request; there are SUB, PUB, PING and AUTH, in capitals`,
		"SUB \x1b[2J":                     `ERR "?[2J" is neither a topic nor the id of a build: expected a prefix such as build or build.shelved, or * for all`,
		strings.Repeat("y", 8000):         `ERR "` + strings.Repeat("y", 40) + `" is no request; there are SUB, PUB, PING and AUTH, in capitals`,
		"SUB" + strings.Repeat(" a", 101): "ERR 101 topics; at most 100",
		"SUB" + strings.Repeat(" "+ulid.Make().String(), 101): "ERR 101 builds; at most 100",
	} {
		dial(t, addr).say(line).hear(want).say("PING").hear("PONG") // and goes on
	}
	c := dial(t, addr).say("SUB build").hear("OK 0 STORE")
	c.say("SUB slave").hear("ERR subscribed already; open another connection for another subscription")

	dial(t, addr).say(strings.Repeat("SUB ", 5000)).dropped("a line has at most 8192 bytes")
	c = dial(t, addr)
	for range 10 {
		c.say("EHLO")
	}
	c.dropped("too many mistakes")

	full, _ := service(t, h, func(cfg *notify.ServiceConfig) {
		cfg.Admit = func() (func(), error) { return nil, errors.New("the master serves 7 streams, its limit") }
	})
	dial(t, full).dropped("the master serves 7 streams, its limit")
}

// Who reads nothing is dropped, told why if it reads at last, and costs next to nothing
// meanwhile; who reads slowly gets all.
func TestServiceSlowReaders(t *testing.T) {
	t.Parallel()
	const events = 50_000
	h := &history{}
	why := strings.Repeat("w", 1000)
	add := func(n int) {
		list := make([]lifecycle.Event, n)
		for i := range list {
			list[i] = lifecycle.Event{At: at, Topic: "build.queued", Why: why}
		}
		h.add(list...)
	}
	add(events) // 50 MB of history
	addr, _ := service(t, h, func(cfg *notify.ServiceConfig) { cfg.Grace = time.Second })
	stuck := dial(t, addr).say("SUB * SINCE 0").hear("OK 50000 STORE")
	live := dial(t, addr).say("SUB *").hear("OK 50000 STORE")
	slow := dial(t, addr).say("SUB * SINCE 0").hear("OK 50000 STORE")
	for n := 1; n <= events; n++ {
		if n%5000 == 0 {
			time.Sleep(200 * time.Millisecond)
		}
		if got, want := slow.line(), fmt.Sprintf("EVT %d build.queued {", n); !strings.HasPrefix(got, want) {
			t.Fatalf("%.80q, want %s", got, want)
		}
	}
	add(1)
	for _, c := range []*tool{live, slow} {
		if got := c.line(); !strings.HasPrefix(got, "EVT 50001 ") {
			t.Errorf("live: %.80q", got)
		}
	}
	// It has been stuck for longer than the grace; what it was sent is whole lines.
	var got int
	for n := 1; ; n++ {
		line, err := stuck.in.ReadString('\n')
		if err != nil {
			t.Logf("stuck reader got %d lines: %v", got, err)
			break
		}
		if strings.HasPrefix(line, "ERR ") {
			continue
		}
		got++
		if !strings.HasPrefix(line, fmt.Sprintf("EVT %d build.queued {", n)) || !strings.HasSuffix(line, "}}\n") {
			t.Fatalf("line %d: %.80q", n, line)
		}
	}
	if got >= events {
		t.Errorf("a reader that took nothing for longer than the grace was sent all %d events", got)
	}
}

// One that is told in time reads why.
func TestServiceTellsTheSlow(t *testing.T) {
	t.Parallel()
	h := &history{}
	list := make([]lifecycle.Event, 20_000)
	for i := range list {
		list[i] = lifecycle.Event{At: at, Topic: "build.queued", Why: strings.Repeat("w", 1000)}
	}
	h.add(list...)
	addr, _ := service(t, h, func(cfg *notify.ServiceConfig) { cfg.Grace = 300 * time.Millisecond })
	c := dial(t, addr).say("SUB * SINCE 0").hear("OK 20000 STORE")
	time.Sleep(1500 * time.Millisecond)
	c.dropped("you have read too slowly")
}

// A client that takes nothing does not hold up a stop.
func TestServiceStopsBesideTheStuck(t *testing.T) {
	t.Parallel()
	h := &history{}
	list := make([]lifecycle.Event, 20_000)
	for i := range list {
		list[i] = lifecycle.Event{At: at, Topic: "build.queued", Why: strings.Repeat("w", 1000)}
	}
	h.add(list...)
	addr, stop := service(t, h, func(cfg *notify.ServiceConfig) { cfg.Grace = time.Hour })
	dial(t, addr).say("SUB * SINCE 0").hear("OK 20000 STORE")
	time.Sleep(500 * time.Millisecond) // it is stuck
	began := time.Now()
	stop()
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("a stop took %v", took)
	}
}
