package e2e

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// proxy is a TCP link that can be cut: open, refused (connections closed, new
// ones refused) or silent (connections stay, not a byte gets through). It can
// be slow.
type proxy struct {
	t    testing.TB
	addr string

	mu       sync.Mutex
	target   string            // guarded by mu
	listener net.Listener      // guarded by mu; nil while refused
	conns    map[net.Conn]bool // guarded by mu
	silent   chan struct{}     // guarded by mu; closed when bytes may flow
	accepted int               // guarded by mu
	rate     int               // guarded by mu; bytes a second and direction; 0: no limit
	deafen   string            // guarded by mu; who says it hears nothing more; empty: nobody
	wg       sync.WaitGroup
}

// newProxy makes a link that leads nowhere yet.
func newProxy(t testing.TB) *proxy {
	t.Helper()
	p := &proxy{t: t, conns: make(map[net.Conn]bool), silent: make(chan struct{})}
	close(p.silent)
	l, err := net.Listen("tcp", loopback())
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	p.serve(l)
	t.Cleanup(func() {
		p.refuse()
		p.speak()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) serve(l net.Listener) {
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Add(1)
			go func() {
				defer p.wg.Done()
				p.link(c)
			}()
		}
	}()
}

func (p *proxy) link(c net.Conn) {
	defer c.Close()
	if !p.add(c) {
		return
	}
	defer p.drop(c)
	p.wait()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	network := "tcp"
	if strings.HasPrefix(target, "/") {
		network = "unix"
	}
	d, err := net.DialTimeout(network, target, 2*time.Second)
	if err != nil {
		return
	}
	defer d.Close()
	if !p.add(d) {
		return
	}
	defer p.drop(d)
	done := make(chan struct{}, 2)
	deaf := new(atomic.Bool)
	go func() { p.copy(c, d, func([]byte) bool { return deaf.Load() }); done <- struct{}{} }()
	go func() {
		p.copy(d, c, func(b []byte) bool {
			if word := p.word(); word != "" && bytes.Contains(b, []byte(word)) {
				deaf.Store(true)
			}
			return false
		})
		done <- struct{}{}
	}()
	<-done
	c.Close()
	d.Close()
	<-done
}

// copy moves bytes while the link is open; what was read while it is silent is
// held back, as a network that drops packets would in the end deliver it. What
// dropped says of bytes is that they are not to arrive at all.
func (p *proxy) copy(dst io.Writer, src io.Reader, dropped func([]byte) bool) {
	buf := make([]byte, 32<<10)
	for {
		part := buf
		if p.speed() > 0 {
			part = buf[:2<<10] // what is in here at once is late at once
		}
		n, err := src.Read(part)
		if rate := p.speed(); rate > 0 {
			time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
		}
		p.wait()
		if n > 0 && !dropped(buf[:n]) {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) wait() {
	p.mu.Lock()
	c := p.silent
	p.mu.Unlock()
	<-c
}

func (p *proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		return false
	}
	p.conns[c] = true
	p.accepted++
	return true
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// lead makes the link lead somewhere.
func (p *proxy) lead(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// limit makes the link slow: so many bytes a second each way; 0: as fast as it
// can.
func (p *proxy) limit(bytesPerSecond int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = bytesPerSecond
}

func (p *proxy) speed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rate
}

// deaf makes connections on which the dialler says a word hear nothing any more;
// nobody is told.
func (p *proxy) deaf(word string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deafen = word
}

func (p *proxy) word() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.deafen
}

// dialled is how many connections there were, both ends counted.
func (p *proxy) dialled() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// refuse closes every connection and refuses new ones.
func (p *proxy) refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	for c := range p.conns {
		c.Close()
	}
}

// hush lets nothing through any more; nobody is told.
func (p *proxy) hush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = make(chan struct{})
}

// speak lets bytes through again.
func (p *proxy) speak() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.silent:
	default:
		close(p.silent)
	}
}

// heal opens the link again. A child that was being forked when the listener
// was closed holds it until its exec: the address is taken for that moment.
func (p *proxy) heal() {
	p.t.Helper()
	p.speak()
	p.mu.Lock()
	refused := p.listener == nil
	p.mu.Unlock()
	if !refused {
		return
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		l, err := net.Listen("tcp", p.addr)
		if err == nil {
			p.serve(l)
			return
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			p.t.Errorf("heal: %v", err)
			return
		}
	}
}
