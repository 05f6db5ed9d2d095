package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	patience = time.Minute           // for a server to come up or to end
	poll     = 10 * time.Millisecond // between looks whether it is up
)

// ErrNotRunning: the server has been stopped or killed, or has ended by itself. StartAgain starts it.
var ErrNotRunning = errors.New("the server is not running")

// StartAgain starts a server that has been stopped or killed, or has ended by itself, on the same data and socket, and
// returns once it accepts connections. If it does not come up it is not running.
func (c *Cluster) StartAgain() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("start: the cluster is closed")
	}
	if c.server != nil && !c.server.over() {
		return errors.New("start: the server is running")
	}
	log, err := os.OpenFile(c.logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := c.command("postgres", "-D", c.data())
	cmd.Stdout, cmd.Stderr = log, log
	server, err := spawn(cmd, syscall.SIGQUIT)
	if err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	c.server = server
	if err := c.awaitLocked(); err != nil {
		err = fmt.Errorf("start postgres: %w\n%s", err, c.Log())
		return errors.Join(err, c.endLocked(Immediate))
	}
	return nil
}

// awaitLocked waits until the server accepts connections.
func (c *Cluster) awaitLocked() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, c.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-c.server.gone:
			return fmt.Errorf("it ended: %w", c.server.err)
		case <-ctx.Done():
			return fmt.Errorf("not up within %v: %w", patience, err)
		case <-tick.C:
		}
	}
}

// Restart is Stop(Fast), then StartAgain.
func (c *Cluster) Restart() error {
	if err := c.Stop(Fast); err != nil {
		return err
	}
	return c.StartAgain()
}

// Mode is how a server stops. The value is the signal that says so.
type Mode syscall.Signal

const (
	// Smart waits until all clients have left; nobody new is let in.
	Smart = Mode(syscall.SIGTERM)
	// Fast rolls back what is under way, cuts the connections and writes a checkpoint.
	Fast = Mode(syscall.SIGINT)
	// Immediate ends all at once; the next start recovers from the log, as after a crash.
	Immediate = Mode(syscall.SIGQUIT)
)

// Stop stops the server and returns once all its processes have ended: ErrNotRunning if it had before, another error if
// it is still there after a minute.
func (c *Cluster) Stop(mode Mode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endLocked(mode)
}

// Kill kills the server with -9 and returns once its children have ended, too. They end when they notice that it is
// gone, which one that computes does at the end of its query: after a minute that is an error.
func (c *Cluster) Kill() error {
	return c.Stop(Mode(syscall.SIGKILL))
}

func (c *Cluster) endLocked(mode Mode) error {
	server := c.server
	if server == nil {
		return ErrNotRunning
	}
	if server.over() {
		c.server = nil
		return fmt.Errorf("%w: it ended by itself: %v", ErrNotRunning, server.err)
	}
	// That it has just ended is no error: it is what was wanted.
	if err := server.cmd.Process.Signal(syscall.Signal(mode)); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal postgres: %w", err)
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-server.gone:
		c.server = nil
		return nil
	case <-limit.C:
		return fmt.Errorf("postgres has not ended %v after %v\n%s", patience, syscall.Signal(mode), c.Log())
	}
}
