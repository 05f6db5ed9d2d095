package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
)

// network joins the simulated machines. Masters listen under addresses; each
// slave has a cable of its own, and all trouble happens to cables.
type network struct {
	mu        sync.Mutex
	listeners map[string]*listener
}

func newNetwork() *network { return &network{listeners: make(map[string]*listener)} }

// listen opens an address. It is free again when the listener is closed.
func (n *network) listen(address string) (*listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[address] != nil {
		return nil, syscall.EADDRINUSE
	}
	l := &listener{net: n, address: address, accepted: make(chan *conn), closed: make(chan struct{})}
	n.listeners[address] = l
	return l, nil
}

func (n *network) listener(address string) *listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.listeners[address]
}

// listener is one open address.
type listener struct {
	net      *network
	address  string
	accepted chan *conn    // never closed
	closed   chan struct{} // closed by Close
	once     sync.Once
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.address)
		l.net.mu.Unlock()
		close(l.closed)
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return simAddr(l.address) }

type simAddr string

func (simAddr) Network() string  { return "sim" }
func (a simAddr) String() string { return string(a) }

// cable is a slave's access to the network.
type cable struct {
	net  *network
	name string
	up   *way // slave to master
	down *way

	mu      sync.Mutex
	refused bool // dials fail at once
	conns   map[*conn]bool
	healed  chan struct{} // closed and replaced at each change of the trouble
	dials   int           // that were tried
}

// way is one direction of a cable.
type way struct {
	mu      sync.Mutex
	rng     *rand.Rand    // of this way alone
	latency time.Duration // of each write: this and up to as much again
	rate    int64         // bytes a second; 0: without limit
	free    time.Time     // when the last byte is through
	stalled bool          // nothing arrives until healed
	bytes   int64         // that went in
}

func (n *network) cable(name string, rng *rand.Rand, latency time.Duration) *cable {
	direction := func() *way {
		return &way{rng: rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64())), latency: latency}
	}
	return &cable{
		net: n, name: name, up: direction(), down: direction(),
		conns: make(map[*conn]bool), healed: make(chan struct{}),
	}
}

// arrival is when n bytes that enter now come out: in order, and no two writes
// at the same moment.
func (w *way) arrival(now time.Time, n int) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes += int64(n)
	at := now.Add(w.latency + time.Duration(w.rng.Int64N(int64(w.latency)+1)))
	start := now
	if w.free.After(start) {
		start = w.free
	}
	if w.rate > 0 {
		w.free = start.Add(time.Duration(int64(n) * int64(time.Second) / w.rate))
		if through := w.free.Add(w.latency); through.After(at) {
			at = through
		}
		return at
	}
	if !at.After(w.free) {
		at = w.free.Add(time.Nanosecond)
	}
	w.free = at
	return at
}

// limit makes the way as slow as that many bytes a second.
func (w *way) limit(rate int64) {
	w.mu.Lock()
	w.rate = rate
	w.mu.Unlock()
}

func (w *way) isStalled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stalled
}

func (w *way) setStalled(stalled bool) {
	w.mu.Lock()
	w.stalled = stalled
	w.mu.Unlock()
}

// dial connects to an address as TCP would: after a round trip, or never while
// a direction is silent.
func (c *cable) dial(ctx context.Context, address string) (net.Conn, error) {
	c.mu.Lock()
	c.dials++
	c.mu.Unlock()
	for _, w := range []*way{c.up, c.down} {
		if err := c.cross(ctx, w); err != nil {
			return nil, &net.OpError{Op: "dial", Net: "sim", Addr: simAddr(address), Err: err}
		}
	}
	refused := &net.OpError{Op: "dial", Net: "sim", Addr: simAddr(address), Err: syscall.ECONNREFUSED}
	l := c.net.listener(address)
	c.mu.Lock()
	if c.refused || l == nil {
		c.mu.Unlock()
		return nil, refused
	}
	up, down := newPipe(c.up), newPipe(c.down)
	near := &conn{cable: c, local: simAddr(c.name), remote: simAddr(address), in: down, out: up}
	far := &conn{cable: c, local: simAddr(address), remote: simAddr(c.name), in: up, out: down}
	near.peer, far.peer = far, near
	c.conns[near] = true
	c.mu.Unlock()
	select {
	case l.accepted <- far:
		return near, nil
	case <-l.closed:
		near.reset()
		return nil, refused
	case <-ctx.Done():
		near.reset()
		return nil, ctx.Err()
	}
}

// cross waits as long as one packet needs for one direction.
func (c *cable) cross(ctx context.Context, w *way) error {
	for {
		c.mu.Lock()
		healed := c.healed
		c.mu.Unlock()
		if !w.isStalled() {
			break
		}
		select {
		case <-healed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.mu.Lock()
	d := w.latency + time.Duration(w.rng.Int64N(int64(w.latency)+1))
	w.mu.Unlock()
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drop tears all connections down; both ends notice at once.
func (c *cable) drop() {
	for _, conn := range c.open() {
		conn.reset()
	}
}

// dropTo tears down the connections to one address.
func (c *cable) dropTo(address string) {
	for _, conn := range c.open() {
		if string(conn.remote) == address {
			conn.reset()
		}
	}
}

// refuse makes dials fail at once.
func (c *cable) refuse() {
	c.mu.Lock()
	c.refused = true
	c.mu.Unlock()
}

// stall lets nothing through the given directions; nobody is told.
func (c *cable) stall(up, down bool) {
	c.up.setStalled(up)
	c.down.setStalled(down)
}

// swallow makes the connections that are open now deaf and dumb for ever, as
// when a box on the way forgets them. Later ones are not concerned.
func (c *cable) swallow(up, down bool) {
	for _, conn := range c.open() {
		if up {
			conn.out.hush()
		}
		if down {
			conn.in.hush()
		}
	}
}

// heal ends all trouble. What was stalled arrives now.
func (c *cable) heal() {
	c.stall(false, false)
	c.mu.Lock()
	c.refused = false
	close(c.healed)
	c.healed = make(chan struct{})
	c.mu.Unlock()
	for _, conn := range c.open() {
		conn.in.thaw()
		conn.out.thaw()
	}
}

func (c *cable) open() []*conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	open := make([]*conn, 0, len(c.conns))
	for conn := range c.conns {
		open = append(open, conn)
	}
	return open
}

// conn is one end of a connection.
type conn struct {
	cable         *cable
	peer          *conn
	local, remote simAddr
	in, out       *pipe
	closed        bool // guarded by cable.mu
}

func (c *conn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *conn) Write(b []byte) (int, error) { return c.out.write(b) }

// Close implements net.Conn. The other end hears of it unless the way there is
// silent.
func (c *conn) Close() error {
	c.in.deafen()
	c.out.finish()
	c.cable.mu.Lock()
	defer c.cable.mu.Unlock()
	c.closed = true
	if c.peer.closed {
		delete(c.cable.conns, c)
		delete(c.cable.conns, c.peer)
	}
	return nil
}

// reset ends the connection for both ends.
func (c *conn) reset() {
	c.in.tear()
	c.out.tear()
	c.cable.mu.Lock()
	defer c.cable.mu.Unlock()
	delete(c.cable.conns, c)
	delete(c.cable.conns, c.peer)
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(true, t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(false, t)
	return nil
}
