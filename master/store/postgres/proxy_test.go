package postgres_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// proxy stands between a store and its server and breaks off, or hangs, at a message
// of the client's.
//
//	store ──► listener ──► read message ──► rule? ──► server
//	  ▲                                                 │
//	  └──────────────── unless replies are swallowed ◄──┘
type proxy struct {
	*testing.T
	ln     net.Listener
	server string // path of its socket

	mu    sync.Mutex
	rule  *rule                 // guarded by mu; nil: all passes
	conns map[net.Conn]struct{} // guarded by mu; both sides of all, to be closed at the end
	pumps sync.WaitGroup
}

// rule is what happens at a message.
type rule struct {
	at    func(kind byte, body string) bool
	then  fate
	hit   chan struct{} // closed at the first message
	until chan struct{} // closed: who hangs goes on
	once  sync.Once
}

type fate int

const (
	cutBefore  fate = iota // the server never sees the message, and the connection breaks
	cutAfter               // the server answers, and the connection breaks instead
	hangBefore             // nothing passes any more
	hangAfter              // the server sees it, and then nothing passes any more
)

// The messages of a rule.
var (
	startup = func(kind byte, _ string) bool { return kind == 0 }
	// Of a batch: BEGIN, locks, reads and writes.
	statement = func(kind byte, _ string) bool { return kind == 'P' || kind == 'B' }
	commit    = func(kind byte, body string) bool { return kind == 'Q' && strings.HasPrefix(body, "COMMIT") }
)

// newProxy listens in front of the server of a URL and returns how to connect.
func newProxy(t *testing.T, of string) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(of)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{
		T: t, ln: ln, conns: make(map[net.Conn]struct{}),
		server: filepath.Join(u.Query().Get("host"), ".s.PGSQL."+u.Query().Get("port")),
	}
	p.pumps.Go(p.accept)
	t.Cleanup(func() {
		p.pass()
		ln.Close()
		p.mu.Lock()
		for c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		p.pumps.Wait()
	})
	return p, with(t, of, func(_ *url.URL, q url.Values) {
		host, port, _ := net.SplitHostPort(ln.Addr().String())
		q.Set("host", host)
		q.Set("port", port)
		q.Set("sslmode", "disable")
	})
}

// set makes a rule for all connections, and returns when it was first followed.
func (p *proxy) set(at func(byte, string) bool, then fate) (hit <-chan struct{}) {
	r := &rule{at: at, then: then, hit: make(chan struct{}), until: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule = r
	return r.hit
}

// pass ends the rule.
func (p *proxy) pass() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rule != nil {
		close(p.rule.until)
		p.rule = nil
	}
}

// now is the rule that a message falls under.
func (p *proxy) now(kind byte, body string) *rule {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rule
	if r == nil {
		return nil
	}
	select {
	case <-r.hit:
		if r.then == hangBefore || r.then == hangAfter {
			return &rule{then: hangBefore, until: r.until} // all of the server hangs
		}
	default:
	}
	if !r.at(kind, body) {
		return nil
	}
	r.once.Do(func() { close(r.hit) })
	return r
}

func (p *proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", p.server)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.mu.Unlock()
		l := &link{proxy: p, client: client, server: server}
		p.pumps.Go(l.requests)
		p.pumps.Go(l.replies)
	}
}

// link is one connection.
type link struct {
	*proxy
	client, server net.Conn

	mu   sync.Mutex
	lost *rule // guarded by mu; not nil: what happens to replies
}

func (l *link) close() {
	l.client.Close()
	l.server.Close()
}

// requests passes what the store says, message by message.
func (l *link) requests() {
	defer l.close()
	for first := true; ; first = false {
		head := make([]byte, 5) // kind and length
		if first {
			head = head[:4] // the first message has no kind
		}
		if _, err := io.ReadFull(l.client, head); err != nil {
			return
		}
		kind, size := byte(0), binary.BigEndian.Uint32(head[len(head)-4:])
		if !first {
			kind = head[0]
		}
		body := make([]byte, size-4)
		if _, err := io.ReadFull(l.client, body); err != nil {
			return
		}
		if r := l.now(kind, string(body)); r != nil {
			switch r.then {
			case cutBefore:
				return
			case hangBefore:
				<-r.until
			case cutAfter, hangAfter:
				l.mu.Lock()
				l.lost = r
				l.mu.Unlock()
			}
		}
		if _, err := l.server.Write(append(head, body...)); err != nil {
			return
		}
	}
}

// replies passes what the server says.
func (l *link) replies() {
	defer l.close()
	buf := make([]byte, 64<<10)
	for {
		n, err := l.server.Read(buf)
		if err != nil {
			return
		}
		l.mu.Lock()
		r := l.lost
		l.mu.Unlock()
		switch {
		case r != nil && r.then == cutAfter:
			return
		case r != nil:
			<-r.until
			return // what was hung for that long is as good as cut
		}
		if _, err := l.client.Write(buf[:n]); err != nil {
			return
		}
	}
}
