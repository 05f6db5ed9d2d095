package master_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"holdfast/master"
	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// lines dials the notification service and subscribes.
func lines(t testing.TB, lis *bufconn.Listener, sub string) *bufio.Reader {
	t.Helper()
	c, err := lis.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, sub+"\n"); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "OK ") {
		t.Fatalf("%s: %q, %v", sub, line, err)
	}
	return in
}

// T-notify-optional: the notification service is killed for an hour. Builds start as
// soon as they did before, and who comes back with the last number that it has misses nothing.
func TestNotifyOptional(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lis *bufconn.Listener
		r := mastertest.Start(t, func(cfg *master.Config) {
			lis = bufconn.Listen(64 << 10)
			cfg.Notify = lis
		})
		s := r.NewSlave("b1", 1).MustConnect()
		in := lines(t, lis, "SUB *")
		build := func() {
			began := time.Now()
			id := r.Submit(1)
			st := s.Run()
			if late := time.Since(began); late > 100*time.Millisecond {
				t.Errorf("a build has started after %v", late)
			}
			st.Finish()
			r.UntilBuild(id, "is over", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildSucceeded })
			st.Forget(holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
		}
		build()
		var last uint64
		for topic := ""; topic != "build.succeeded"; {
			line, err := in.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Sscanf(line, "EVT %d %s", &last, &topic); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
		}
		lis.Close()
		if _, err := io.ReadAll(in); err != nil {
			t.Logf("the connection ended with %v", err)
		}
		for range 60 {
			time.Sleep(time.Minute)
			build()
		}
		r.Stop()
		r.Again()
		in = lines(t, lis, fmt.Sprintf("SUB * SINCE %d", last))
		ended := 0
		for ended < 60 {
			line, err := in.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			var n uint64
			var topic string
			if _, err := fmt.Sscanf(line, "EVT %d %s", &n, &topic); err != nil || n != last+1 {
				t.Fatalf("%q after event %d, %v", line, last, err)
			}
			last = n
			if topic == "build.succeeded" {
				ended++
			}
		}
	})
}

// stream is what a browser or curl reads of /api/v1/events.
type stream struct {
	testing.TB
	in *bufio.Reader
}

// events asks for a stream, with more headers.
func (w *web) events(query string, header ...string) (*stream, int, string) {
	w.Helper()
	conn := w.dial()
	w.Cleanup(func() { conn.Close() })
	request := "GET /api/v1/events" + query + " HTTP/1.1\r\nHost: m\r\n" + strings.Join(append(header, ""), "\r\n") + "\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		w.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		conn.Close() // first: Close reads a body to its end, and this one has none
		resp.Body.Close()
	})
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		return nil, resp.StatusCode, string(body)
	}
	return &stream{w.TB, bufio.NewReader(resp.Body)}, resp.StatusCode, resp.Header.Get("Content-Type")
}

// next is the next message, its lines by field.
func (s *stream) next() map[string]string {
	s.Helper()
	m := make(map[string]string)
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			s.Fatalf("%v after %v", err, m)
		}
		if line == "\n" {
			return m
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		m[field] = strings.TrimPrefix(value, " ")
	}
}

// Server-Sent Events: the same sequence, resumed by the number that a browser sends.
func TestServerSentEvents(t *testing.T) {
	t.Parallel()
	w := &web{TB: t}
	r := mastertest.Start(t, w.serve)
	one, two := r.Submit(1), r.Submit(1) // 1, 2
	r.Cancel(one)                        // 3
	opened := func(s *stream, id string) *stream {
		t.Helper()
		if m := s.next(); m["event"] != "opened" || m["id"] != id || m["data"] != `{"newest":3,"store_id":"`+r.Store.ID()+`"}` || m["retry"] == "" {
			t.Errorf("opened: %v", m)
		}
		return s
	}
	expect := func(s *stream, n uint64, topic string) {
		t.Helper()
		m := s.next()
		var e struct {
			N     uint64
			Topic string
		}
		if err := json.Unmarshal([]byte(m["data"]), &e); err != nil || m["id"] != fmt.Sprint(n) || e.N != n || e.Topic != topic || m["event"] != "" {
			t.Errorf("%v, want %d %s (%v)", m, n, topic, err)
		}
	}
	s, _, kind := w.events("?since=0")
	if kind != "text/event-stream" {
		t.Errorf("content type %q", kind)
	}
	opened(s, "0")
	expect(s, 1, "build.queued")
	expect(s, 2, "build.queued")
	expect(s, 3, "build.cancelled")
	now, _, _ := w.events("")
	opened(now, "3")
	again, _, _ := w.events("?since=0&topic=build.cancelled&topic=build.queued", "Last-Event-ID: 2")
	opened(again, "2")
	expect(again, 3, "build.cancelled")
	ofTwo, _, _ := w.events("?build=" + two + "&since=0")
	opened(ofTwo, "0")
	expect(ofTwo, 2, "build.queued")
	r.Cancel(two) // 4
	for _, s := range []*stream{s, now, again, ofTwo} {
		expect(s, 4, "build.cancelled")
	}
	reset, _, _ := w.events("", "Last-Event-ID: 1000")
	if m := reset.next(); m["event"] != "reset" || m["id"] != "4" {
		t.Errorf("reset: %v", m)
	}
	for query, want := range map[string]string{
		"?since=x":                            "since: expected the number of an event",
		"?since=-1":                           "since: expected the number of an event",
		"?topic=Build":                        "is no topic",
		"?build=7":                            "is no build id",
		"?topics=build":                       "no such parameter",
		"?" + strings.Repeat("topic=a&", 101): "101 topics; at most 100",
	} {
		if _, code, body := w.events(query); code != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("%.40s: %d %q, want %q", query, code, body, want)
		}
	}
}

// A stream with nothing to say says so, for as long as it takes: the server's limit for requests
// is not its own. And a stop ends it.
func TestServerSentEventsStayOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &web{TB: t}
		r := mastertest.Start(t, w.serve)
		r.Submit(1)
		s, _, _ := w.events("")
		s.next()
		began := time.Now()
		for range 240 {
			if m := s.next(); len(m) != 1 {
				t.Fatalf("%v in a quiet hour", m)
			}
		}
		if d := time.Since(began); d != time.Hour {
			t.Errorf("240 signs of life in %v", d)
		}
		r.Submit(1)
		if m := s.next(); m["id"] != "2" {
			t.Errorf("after an hour: %v", m)
		}
		r.Stop()
		if rest, err := io.ReadAll(s.in); err == nil {
			t.Errorf("ended in order with %q: a reader would think that this was all", rest)
		}
	})
}
