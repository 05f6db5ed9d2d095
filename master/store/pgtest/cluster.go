package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	patience = time.Minute           // for a server to come up or to end
	poll     = 10 * time.Millisecond // between looks whether it is up

	maxSocketPath = 107 // bytes, without the final zero
)

// ErrNotRunning: the server has been stopped or killed, or has ended by itself. StartAgain starts it.
var ErrNotRunning = errors.New("the server is not running")

// Cluster is a PostgreSQL server and its data. All methods may be called from any goroutine; those that start or end
// the server wait for each other.
type Cluster struct {
	bin  string
	dir  string // holds data and log
	sock string // directory of the socket
	user *syscall.Credential

	remover *remover

	mu     sync.Mutex
	server *process // guarded by mu; nil: never started, or stopped by us
	closed bool     // guarded by mu
}

// Start makes a cluster and starts its server; it returns once that accepts connections. The error of a server that
// does not come up has the end of its log. After an error nothing is left behind.
func Start(cfg Config) (*Cluster, error) {
	bin, err := Find()
	if err != nil {
		return nil, err
	}
	c := &Cluster{bin: bin}
	if c.user, err = serverUser(); err != nil {
		return nil, err
	}
	if err := c.makeDirs(cfg); err != nil {
		return nil, fmt.Errorf("make directories: %w", err)
	}
	if err := c.init(cfg); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := c.StartAgain(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// makeDirs makes what the remover is then told of.
func (c *Cluster) makeDirs(cfg Config) (err error) {
	if cfg.Dir == "" {
		c.dir, err = os.MkdirTemp(cfg.In, "hfpg")
	} else if c.dir, err = filepath.Abs(cfg.Dir); err == nil {
		err = os.Mkdir(c.dir, 0o700)
	}
	if err != nil {
		return err
	}
	made := []string{c.dir}
	defer func() {
		if err != nil {
			for _, dir := range made {
				os.RemoveAll(dir)
			}
		}
	}()
	if c.sock, err = os.MkdirTemp("", "hfpg"); err != nil {
		return err
	}
	made = append(made, c.sock)
	if path := filepath.Join(c.sock, ".s.PGSQL."+port); len(path) > maxSocketPath {
		return fmt.Errorf("%s is too long for a socket; set TMPDIR to a shorter one", path)
	}
	for _, dir := range made {
		if err := reachable(dir, c.user); err != nil {
			return err
		}
		if c.user != nil {
			if err := os.Chown(dir, int(c.user.Uid), int(c.user.Gid)); err != nil {
				return err
			}
		}
	}
	c.remover, err = newRemover(made...)
	return err
}

func (c *Cluster) init(cfg Config) error {
	var out bytes.Buffer
	cmd := c.command("initdb", "-D", c.data(), "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := spawn(cmd, syscall.SIGKILL)
	if err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	<-p.gone
	if p.err != nil {
		return fmt.Errorf("initdb: %w\n%s", p.err, out.Bytes())
	}
	conf, err := os.OpenFile(filepath.Join(c.data(), "postgresql.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = conf.WriteString(cfg.lines(c.sock))
	return errors.Join(err, conf.Close())
}

// command is a program of PostgreSQL's as it is to run: as the server's user, in a directory that this user may read.
func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	cmd.Env = environment()
	// A group of its own: a terminal's ^C is ours to deal with.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.user}
	return cmd
}

func (c *Cluster) data() string    { return filepath.Join(c.dir, "data") }
func (c *Cluster) logPath() string { return filepath.Join(c.dir, "log") }

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

// Close stops the server immediately, if it runs, and removes all directories that Start made. Again it does nothing.
func (c *Cluster) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	err := c.endLocked(Immediate)
	if errors.Is(err, ErrNotRunning) {
		err = nil
		removeInterlock(c.data())
	}
	return errors.Join(err, c.remover.remove())
}

// Log returns the end of the server's log, at most 16 KiB of whole lines, for the report of a test that failed.
func (c *Cluster) Log() string {
	const most = 16 << 10
	f, err := os.Open(c.logPath())
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	from := max(0, info.Size()-most)
	tail, err := io.ReadAll(io.NewSectionReader(f, from, most))
	if err != nil {
		return err.Error()
	}
	log := string(tail)
	if from > 0 {
		_, log, _ = strings.Cut(log, "\n")
	}
	return log
}

// URL returns how to connect to a database of the cluster, whether it exists and the server runs or not.
func (c *Cluster) URL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User("postgres"), Path: "/" + database,
		RawQuery: url.Values{"host": {c.sock}, "port": {port}}.Encode(),
	}
	return u.String()
}

// CreateDatabase makes an empty database and returns how to connect to it. One that exists is an error.
func (c *Cluster) CreateDatabase(ctx context.Context, name string) (url string, err error) {
	if err := c.exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	return c.URL(name), nil
}

// DropDatabase removes a database and cuts the connections to it. One that does not exist is an error.
func (c *Cluster) DropDatabase(ctx context.Context, name string) error {
	if err := c.exec(ctx, "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

func (c *Cluster) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}
