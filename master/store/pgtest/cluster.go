package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// maxSocketPath is in bytes, without the final zero.
const maxSocketPath = 107

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
