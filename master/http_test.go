package master_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"holdfast/master"
	"holdfast/master/mastertest"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// web is the HTTP side of a master.
type web struct {
	testing.TB
	lis  *bufconn.Listener
	also func(*master.Config)
}

// serve is for mastertest.Start.
func (w *web) serve(cfg *master.Config) {
	w.lis = bufconn.Listen(64 << 10)
	cfg.HTTP = w.lis
	if w.also != nil {
		w.also(cfg)
	}
}

// dial opens a connection.
func (w *web) dial() net.Conn {
	w.Helper()
	conn, err := w.lis.Dial()
	if err != nil {
		w.Fatalf("dial: %v", err)
	}
	return conn
}

// answer is a response; status 0: none, the body says why.
type answer struct {
	status int
	header http.Header
	closes bool // the connection
	body   string
}

// ask sends a request as it is.
func (w *web) ask(request string) answer {
	w.Helper()
	conn := w.dial()
	defer conn.Close()
	go io.WriteString(conn, request) // the answer tells
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return answer{body: err.Error()}
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, resp.Close, string(body)}
}

// get asks for a path.
func (w *web) get(path string) (int, string) {
	w.Helper()
	a := w.ask("GET " + path + " HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n")
	return a.status, a.body
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	w := &web{TB: t}
	r := mastertest.Start(t, w.serve)
	r.Submit(1) // it is up
	for _, tt := range []struct {
		request string // without version and headers
		status  int
		body    string
	}{
		{"GET /healthz", 200, "ok\n"},
		{"GET /readyz", 200, "ready\n"},
		{"GET /readyz?verbose=1", 200, "ready\n"},
		{"HEAD /readyz", 200, ""},
		{"POST /readyz", 405, "Method Not Allowed\n"},
		{"PUT /healthz", 405, "Method Not Allowed\n"},
		{"DELETE /healthz", 405, "Method Not Allowed\n"},
		{"OPTIONS /healthz", 405, "Method Not Allowed\n"},
		{"BREW /healthz", 405, "Method Not Allowed\n"},
		{"GET /", 404, "404 page not found\n"},
		{"GET /healthz/", 404, "404 page not found\n"},
		{"GET /healthz%00", 404, "404 page not found\n"},
		{"GET /HEALTHZ", 404, "404 page not found\n"},
		{"GET /debug/pprof/", 404, "404 page not found\n"},
		{"GET /" + strings.Repeat("a", 10<<10), 404, "404 page not found\n"},
	} {
		got := w.ask(tt.request + " HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n")
		if strings.HasPrefix(tt.request, "HEAD") {
			got.body = "" // of the reader's making
		}
		if got.status != tt.status || got.body != tt.body {
			t.Errorf("%.40s: %d %q, want %d %q", tt.request, got.status, got.body, tt.status, tt.body)
		}
		if tt.status == 405 && got.header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: allowed is %q", tt.request, got.header.Get("Allow"))
		}
	}
	if code, body := w.get("/metrics"); code != 200 || !strings.Contains(body, "holdfast_master_commit_groups_total") {
		t.Errorf("metrics: %d %.200s", code, body)
	}
}

// Requests that two readers could take for different ones are refused, and the
// connection with them; others are served as before.
func TestHTTPAttacks(t *testing.T) {
	t.Parallel()
	w := &web{TB: t}
	r := mastertest.Start(t, w.serve)
	r.Submit(1)
	for name, tt := range map[string]struct {
		request string
		status  int
	}{
		"no HTTP":                  {"hello\r\n\r\n", 400},
		"TLS":                      {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 100) + "\r\n\r\n", 400},
		"no host":                  {"GET /healthz HTTP/1.1\r\n\r\n", 400},
		"two hosts":                {"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
		"two lengths":              {"GET /healthz HTTP/1.1\r\nHost: m\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400},
		"negative length":          {"GET /healthz HTTP/1.1\r\nHost: m\r\nContent-Length: -1\r\n\r\n", 400},
		"length with a sign":       {"GET /healthz HTTP/1.1\r\nHost: m\r\nContent-Length: +1\r\n\r\nx", 400},
		"length out of range":      {"GET /healthz HTTP/1.1\r\nHost: m\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
		"space before the colon":   {"GET /healthz HTTP/1.1\r\nHost: m\r\nContent-Length : 1\r\n\r\nx", 400},
		"folded header":            {"GET /healthz HTTP/1.1\r\nHost: m\r\n Transfer-Encoding: chunked\r\nX: y\r\n\r\n", 400},
		"unknown encoding":         {"GET /healthz HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: xchunked\r\n\r\n", 501},
		"two encodings":            {"GET /healthz HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 501},
		"NUL in a header":          {"GET /healthz HTTP/1.1\r\nHost: m\r\nX: a\x00b\r\n\r\n", 400},
		"enormous header":          {"GET /healthz HTTP/1.1\r\nHost: m\r\nX: " + strings.Repeat("x", 80<<10) + "\r\n\r\n", 431},
		"many headers":             {"GET /healthz HTTP/1.1\r\nHost: m\r\n" + strings.Repeat("X: y\r\n", 20_000) + "\r\n", 431},
		"enormous path":            {"GET /" + strings.Repeat("x", 80<<10) + " HTTP/1.1\r\nHost: m\r\n\r\n", 431},
		"HTTP/2 without agreement": {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
	} {
		if got := w.ask(tt.request); got.status != tt.status || !got.closes {
			t.Errorf("%s: %d (closes: %t) %q, want %d", name, got.status, got.closes, got.body, tt.status)
		}
	}
	if code, body := w.get("/healthz"); code != 200 {
		t.Errorf("healthz: %d %s", code, body)
	}
}

// Whoever connects and says nothing, or a byte now and then, or does not take
// its answer, is dropped; meanwhile others are served.
func TestSlowPeersAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var grpcSide *bufconn.Listener
		w := &web{TB: t, also: func(cfg *master.Config) { grpcSide = cfg.Listener.(*bufconn.Listener) }}
		r := mastertest.Start(t, w.serve)
		r.Submit(1)
		for _, tt := range []struct {
			name  string
			dial  func() (net.Conn, error)
			first string
			drip  string // every second
			limit time.Duration
		}{
			{"HTTP, silent", w.lis.Dial, "", "", 11 * time.Second},
			{"HTTP, dripping headers", w.lis.Dial, "GET /healthz HTTP/1.1\r\nHost: m\r\n", "X: y\r\n", 12 * time.Second},
			{"HTTP, dripping body", w.lis.Dial, "GET /healthz HTTP/1.1\r\nHost: m\r\nContent-Length: 100000\r\n\r\n", "x", 32 * time.Second},
			{"HTTP, idle", w.lis.Dial, "GET /healthz HTTP/1.1\r\nHost: m\r\n\r\n", "", 121 * time.Second},
			{"gRPC, silent", grpcSide.Dial, "", "", 11 * time.Second},
			{"gRPC, dripping the preface", grpcSide.Dial, "PRI", "", 11 * time.Second},
			{"gRPC, HTTP/1.1", grpcSide.Dial, "GET / HTTP/1.1\r\nHost: m\r\n\r\n", "", 11 * time.Second},
		} {
			func() {
				conn, err := tt.dial()
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				began := time.Now()
				closed := make(chan struct{})
				go func() {
					defer close(closed)
					io.Copy(io.Discard, conn) // it ends when the connection does
				}()
				if _, err := io.WriteString(conn, tt.first); err != nil {
					t.Fatal(err)
				}
				drip := time.NewTicker(time.Second)
				defer drip.Stop()
				for over := false; !over; {
					select {
					case <-closed:
						over = true
					case <-drip.C:
						io.WriteString(conn, tt.drip) // it may be closed
						if time.Since(began) > 2*tt.limit {
							t.Errorf("%s: still connected after %v", tt.name, time.Since(began))
							return
						}
					}
				}
				if took := time.Since(began); took > tt.limit {
					t.Errorf("%s: dropped after %v, want %v at most", tt.name, took, tt.limit)
				}
				if code, _ := w.get("/readyz"); code != 200 {
					t.Errorf("%s: readyz: %d", tt.name, code)
				}
			}()
		}
	})
}

// HTTP says, from the first moment to the last, whether the master is alive and
// ready, and why not.
func TestReadyz(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuse := func([]store.Op) error { return fmt.Errorf("no space: %w", store.ErrFull) }
		var gate *mastertest.Gate
		w := &web{TB: t, also: func(cfg *master.Config) {
			gate = cfg.Store.(*mastertest.Gate)
			gate.Fail(refuse)
		}}
		r := mastertest.Start(t, w.serve)
		check := func(when string, want int, words string) {
			t.Helper()
			synctest.Wait()
			if code, body := w.get("/readyz"); code != want || !strings.Contains(body, words) {
				t.Errorf("%s: readyz says %d %q, want %d %q", when, code, body, want, words)
			}
			if code, _ := w.get("/healthz"); code != 200 {
				t.Errorf("%s: healthz says %d", when, code)
			}
		}
		check("starting on a full disk", 503, "not ready: the master is starting: no space: store is full")
		gate.Fail(nil)
		time.Sleep(5 * time.Second)
		check("started", 200, "ready\n")

		s := r.NewSlave("b1", 1).MustConnect()
		gate.Fail(refuse)
		submitted := make(chan error, 1)
		go func() {
			_, err := r.Control.SubmitBuild(r.Context(), submission())
			submitted <- err
		}()
		check("full", 503, "not ready: no space: store is full")
		if m, err := r.Control.GetMaster(r.Context(), &holdfastv1.GetMasterRequest{}); err != nil || m.GetReady() || m.GetNotReady() != "no space: store is full" {
			t.Errorf("GetMaster: %v, %v", m, err)
		}
		gate.Fail(nil)
		if err := <-submitted; err != nil {
			t.Errorf("submit: %v", err)
		}
		check("space again", 200, "ready\n")

		// The disconnect of the slave cannot be noted yet, so the stop takes a
		// while.
		synctest.Wait()
		gate.Hold()
		ended := make(chan error, 1)
		go func() { r.Stop(); ended <- nil }()
		time.Sleep(5 * time.Second)
		check("stopping", 503, "not ready: the master is stopping")
		gate.Release()
		<-ended
		if _, err := w.lis.Dial(); err == nil {
			t.Error("HTTP is served after the stop")
		}
		if err := s.End(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("the slave's session ended with %v", err)
		}
	})
}
