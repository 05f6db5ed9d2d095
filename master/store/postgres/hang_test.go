package postgres_test

import (
	"errors"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/master/store"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
)

// A server that vanishes without a word is left by reads, too, and found again: the
// error is no time limit of the caller's.
func TestReadsEnd(t *testing.T) {
	u, err := url.Parse(pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(u.Query().Get("host"), ".s.PGSQL."+u.Query().Get("port"))
	hole := newHole(t, socket)
	u.Host, u.RawQuery = hole.Addr().String(), "sslmode=disable"
	s, err := postgres.Open(t.Context(), postgres.Config{URL: u.String(), CommitTimeout: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Masters(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	hole.swallow(true)
	for what, read := range map[string]func() error{
		"masters": func() error { _, err := s.Masters(t.Context(), time.Now()); return err },
		"log":     func() error { _, err := s.Log(t.Context(), "none", 0, 1000); return err },
	} {
		began := time.Now()
		if err := read(); !errors.Is(err, store.ErrBusy) {
			t.Errorf("%s: %v", what, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: it took %v", what, took)
		}
	}
	hole.swallow(false)
	if _, err := s.Masters(t.Context(), time.Now()); err != nil {
		t.Errorf("when the server is back: %v", err)
	}
}

// hole is a way to a server on which bytes can vanish.
type hole struct {
	net.Listener
	mu         sync.Mutex
	swallowing bool // guarded by mu
}

func newHole(t *testing.T, socket string) *hole {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{Listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", socket)
			if err != nil {
				client.Close()
				return
			}
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				go func() {
					defer client.Close()
					defer server.Close()
					_, _ = io.Copy(through{h, way[1]}, way[0])
				}()
			}
		}
	}()
	return h
}

func (h *hole) swallow(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.swallowing = on
}

// through is one direction of it.
type through struct {
	h  *hole
	to io.Writer
}

func (w through) Write(b []byte) (int, error) {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	if w.h.swallowing {
		return len(b), nil
	}
	return w.to.Write(b)
}
