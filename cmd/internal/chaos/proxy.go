package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
)

// proxy is a slave's way to a master, or a master's to the database. Its faults are those of a network.
type proxy struct {
	addr            string
	network, target string

	mu       sync.Mutex
	listener net.Listener      // guarded by mu; nil while it is cut
	conns    map[net.Conn]bool // guarded by mu
	gates    [2]chan struct{}  // guarded by mu; closed when bytes may flow: up, down
	wg       sync.WaitGroup
}

// The directions.
const (
	up   = 0 // from the slave to the master
	down = 1
)

// loopback is an address to listen on, free now and whenever we come back to
// it: a host of the loopback that nobody else uses, and a port that no
// connection is given by itself.
func loopback() string {
	return fmt.Sprintf("127.%d.%d.%d:%d", 2+rand.IntN(250), rand.IntN(256), 1+rand.IntN(254), 10_000+rand.IntN(20_000))
}

func newProxy(network, target string) (*proxy, error) {
	p := &proxy{network: network, target: target, conns: make(map[net.Conn]bool)}
	for i := range p.gates {
		p.gates[i] = make(chan struct{})
		close(p.gates[i])
	}
	var err error
	for range 20 {
		var l net.Listener
		if l, err = net.Listen("tcp", loopback()); err == nil {
			p.addr = l.Addr().String()
			p.serve(l)
			return p, nil
		}
	}
	return nil, fmt.Errorf("no address for a proxy: %w", err)
}

func (p *proxy) serve(l net.Listener) {
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.link(c) })
		}
	})
}

func (p *proxy) link(c net.Conn) {
	defer c.Close()
	if !p.add(c) {
		return
	}
	defer p.drop(c)
	d, err := net.DialTimeout(p.network, p.target, 2*time.Second)
	if err != nil {
		return
	}
	defer d.Close()
	if !p.add(d) {
		return
	}
	defer p.drop(d)
	done := make(chan struct{}, 2)
	go func() { p.copy(d, c, up); done <- struct{}{} }()
	go func() { p.copy(c, d, down); done <- struct{}{} }()
	<-done
	c.Close()
	d.Close()
	<-done
}

// copy moves bytes while the link lets them. What was read before is held back,
// as a network that drops packets would in the end deliver it.
func (p *proxy) copy(dst, src net.Conn, direction int) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		p.mu.Lock()
		gate := p.gates[direction]
		p.mu.Unlock()
		<-gate
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		return false
	}
	p.conns[c] = true
	return true
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// reset breaks every connection with an RST and takes new ones at once.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0)
		}
		_ = c.Close()
	}
}

// cut breaks every connection and refuses new ones.
func (p *proxy) cut() {
	p.mu.Lock()
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	p.mu.Unlock()
	p.reset()
}

// stall lets no byte through in a direction any more; nobody is told.
func (p *proxy) stall(direction int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gates[direction] = make(chan struct{})
}

// heal makes the link whole. A child that was being forked when the listener was
// closed holds it until its exec: the address is taken for that moment.
func (p *proxy) heal() error {
	p.mu.Lock()
	for _, gate := range p.gates {
		select {
		case <-gate:
		default:
			close(gate)
		}
	}
	refused := p.listener == nil
	p.mu.Unlock()
	if !refused {
		return nil
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		l, err := net.Listen("tcp", p.addr)
		if err == nil {
			p.serve(l)
			return nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return fmt.Errorf("proxy: %w", err)
		}
	}
}

// close ends it, and everything that went through it.
func (p *proxy) close() {
	p.cut()
	p.mu.Lock()
	for _, gate := range p.gates {
		select {
		case <-gate:
		default:
			close(gate)
		}
	}
	p.mu.Unlock()
	p.wg.Wait()
}
