package slave

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// sockName is where a running agent hands out copies of its journal.
const sockName = "agent.sock"

// maxCopies of the journal at a time: each is a file as large as the journal.
// Whoever comes beyond that waits in the socket's queue.
const maxCopies = 2

// acceptRetry is the wait after an Accept that failed, for want of descriptors
// as a rule.
const acceptRetry = time.Second

// sockTimeout limits one conversation, so that a stuck reader is let go.
const sockTimeout = 5 * time.Minute

// copyPatience is how long a reader waits for the next bytes: the agent may be
// stopped, and will never say so.
const copyPatience = 10 * time.Second

// The stream: the copy, then 4 bytes that say it is whole. A reader that gets
// anything else at the end has a broken copy.
var sockTrailer = []byte("hJOK")

// serveSock hands a consistent copy of the journal to everyone who connects to
// DIR/agent.sock, until ctx ends. Copying the file itself would give false
// alarms: a live bbolt file is torn. It is there for people who look; nothing
// that goes wrong here ends the agent.
func serveSock(ctx context.Context, dir string, snapshot func(io.Writer) error, logger *slog.Logger) error {
	l, err := listenSock(dir)
	if err != nil {
		logger.Warn("no copies of the journal are handed out while the agent runs", "socket", sockName, "err", err)
		return nil
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close() // nobody is left waiting in the queue of an agent that is gone
	var wg sync.WaitGroup
	defer wg.Wait()
	copies := make(chan struct{}, maxCopies)
	for {
		select {
		case copies <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.Accept()
		if err != nil {
			<-copies
			if ctx.Err() != nil {
				return nil
			}
			logger.Warn("cannot accept whoever wants a copy of the journal; trying again", "err", err)
			select {
			case <-time.After(acceptRetry):
			case <-ctx.Done():
			}
			continue
		}
		wg.Go(func() {
			defer func() { <-copies }()
			defer conn.Close()
			hangUp := context.AfterFunc(ctx, func() { conn.Close() })
			defer hangUp()
			if err := conn.SetDeadline(time.Now().Add(sockTimeout)); err != nil {
				return
			}
			if err := snapshot(conn); err == nil {
				_, _ = conn.Write(sockTrailer) // the reader notices if not
			}
		})
	}
}

func listenSock(dir string) (net.Listener, error) {
	path, done, err := sockPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	// DIR/lock is ours, so a socket that is there belongs to a dead agent.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by the name used here it could unlink another's
	return l, os.Chmod(path, 0o600)
}

// CopyJournal asks the agent that runs on dir for a consistent copy of its
// journal and writes it to w. ErrNotRunning: nobody answers; then the file may be
// opened read-only. Any other error: what w got is not whole.
func CopyJournal(ctx context.Context, dir string, w io.Writer) error {
	path, done, err := sockPath(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", dir, ErrNotRunning)
	}
	if err != nil {
		return fmt.Errorf("copy journal: %w", err)
	}
	defer done()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", dir, ErrNotRunning)
	}
	if err != nil {
		return fmt.Errorf("copy journal: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	r := &patientReader{Conn: conn}
	err = copyTrailed(w, r)
	switch {
	case errors.Is(err, syscall.ECONNRESET) && !r.heard: // the agent ended while we waited in its queue
		return fmt.Errorf("%s: %w", dir, ErrNotRunning)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the agent that runs on %s has said nothing for %v (is it stopped, or its disk stuck?): %w", dir, copyPatience, err)
	}
	return err
}

// patientReader gives each read copyPatience.
type patientReader struct {
	net.Conn
	heard bool // at least a byte
}

func (r *patientReader) Read(p []byte) (int, error) {
	if err := r.SetReadDeadline(time.Now().Add(copyPatience)); err != nil {
		return 0, err
	}
	n, err := r.Conn.Read(p)
	r.heard = r.heard || n > 0
	return n, err
}

// copyTrailed copies all but the trailer, which must be there.
func copyTrailed(w io.Writer, r io.Reader) error {
	n := len(sockTrailer)
	buf := make([]byte, 64<<10)
	held := 0 // bytes at the front of buf that may be the trailer
	for {
		got, err := r.Read(buf[held:])
		held += got
		if held > n {
			if _, werr := w.Write(buf[:held-n]); werr != nil {
				return fmt.Errorf("copy journal: %w", werr)
			}
			held = copy(buf, buf[held-n:held])
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("copy journal: %w", err)
		}
	}
	if string(buf[:held]) != string(sockTrailer) {
		return fmt.Errorf("copy journal: the agent broke off: %w", io.ErrUnexpectedEOF)
	}
	return nil
}

// sockPath names DIR/agent.sock in less than the 108 bytes a socket address
// has room for, however long dir is: through an open descriptor of dir. done
// closes it.
func sockPath(dir string) (path string, done func(), err error) {
	if path := filepath.Join(dir, sockName); len(path) < 100 {
		return path, func() {}, nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join("/proc/self/fd", strconv.Itoa(int(d.Fd())), sockName)
	return path, func() { d.Close() }, nil
}
