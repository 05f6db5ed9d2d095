package notify

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/oklog/ulid/v2"

	"holdfast/master/lifecycle"
)

const (
	maxLine     = 8 << 10 // bytes of a request; 100 build ids have less than 3 KiB
	maxMistakes = 10      // of one connection
	// idle is how long a connection that has subscribed to nothing may say nothing.
	idle = time.Minute
	// stillThere is how often one that has ended its side is sent an empty line, since
	// nothing else tells that it is gone.
	stillThere   = 30 * time.Second
	defaultGrace = 10 * time.Second
	// lastWords is how much longer than Grace it may take to hear why one is dropped.
	lastWords = 2 * time.Second
	// acceptPause is the wait after a connection could not be accepted, for lack of
	// file descriptors for instance.
	acceptPause = 100 * time.Millisecond
)

// ServiceConfig configures a Service.
type ServiceConfig struct {
	Feed    *Feed
	Hub     *Hub
	StoreID string
	Logger  *slog.Logger
	// Grace is how long a client may take nothing of what it was sent. Default: 10 s.
	Grace time.Duration
	// Admit is asked before a connection is served; over is called at its end.
	Admit func() (over func(), err error)
}

// Service is the notification service for tools: lines over TCP, usable with nc. What
// it can do, and its grammar, is in docs/notify.md.
//
// A connection has two goroutines. What a client sends is read a line at a time, what it is
// sent is shared with all others but for one batch of events. It is dropped if it takes
// nothing for too long.
type Service struct{ cfg ServiceConfig }

// NewService makes a service.
func NewService(cfg ServiceConfig) *Service {
	if cfg.Grace <= 0 {
		cfg.Grace = defaultGrace
	}
	return &Service{cfg}
}

// Serve serves l until ctx ends, then tells everybody and closes. It closes l. An error
// is one that no later connection would get past.
func (s *Service) Serve(ctx context.Context, l net.Listener) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	closed := context.AfterFunc(ctx, func() { l.Close() })
	defer closed()
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case err != nil && !passes(err):
			l.Close()
			return fmt.Errorf("notification service: %w", err)
		case err != nil:
			s.cfg.Logger.Warn("a client of the notification service was not accepted", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		conns.Go(func() { s.serve(ctx, c) })
	}
}

// passes reports whether the next connection may be accepted after this error.
func passes(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (s *Service) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn := &client{service: s, conn: c, ended: func() bool { return ctx.Err() != nil }, cancel: cancel}
	over, err := s.cfg.Admit()
	if err != nil {
		_ = conn.refuse("%v", err) // it is closed either way
		return
	}
	defer over()
	// Whoever cancels wants the reading to end, now, and does not wait for a client that
	// takes nothing.
	unblock := context.AfterFunc(ctx, func() {
		_ = c.SetReadDeadline(time.Unix(1, 0))
		_ = c.SetWriteDeadline(time.Now().Add(lastWords))
	})
	defer unblock()
	err = conn.read(ctx)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(nil)
	conn.events.Wait()
	conn.farewell(err)
}

// client is one connection.
type client struct {
	service *Service
	conn    net.Conn
	ended   func() bool // it is over, but for the last words
	cancel  context.CancelCauseFunc
	events  sync.WaitGroup
	reader  *Reader // set once

	writing sync.Mutex
	broken  bool   // nothing more can be sent
	rest    []byte // of the line that a write broke off in
}

var (
	errStopping = errors.New("the master is stopping; connect again, and go on with SINCE and your last number")
	errSlow     = errors.New("you have read too slowly: nothing for some time; connect again, and go on with SINCE and your last number")
	errIdle     = fmt.Errorf("you have said nothing for %v, and subscribed to nothing", idle)
	errMistakes = errors.New("too many mistakes")
	errLine     = fmt.Errorf("a line has at most %d bytes", maxLine)
)

// read carries out what the client sends, until it ends or must be ended.
func (c *client) read(ctx context.Context) error {
	in := bufio.NewReaderSize(c.conn, maxLine)
	for mistakes := 0; ; {
		var deadline time.Time
		if c.reader == nil {
			deadline = time.Now().Add(idle)
		}
		if err := c.conn.SetReadDeadline(deadline); err != nil || ctx.Err() != nil {
			return err // or it would wait for ever for what ctx has ended
		}
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return errLine
		case isTimeout(err):
			return errIdle
		case err != nil && c.reader != nil && errors.Is(err, io.EOF):
			// nc ends its side with its standard input, and reads on.
			return c.outlast(ctx)
		case err != nil:
			return err
		}
		if err := c.command(ctx, string(bytes.TrimRight(line, "\r\n"))); err != nil {
			if !errors.As(err, new(mistake)) {
				return err
			}
			if err := c.refuse("%v", err); err != nil {
				return err
			}
			if mistakes++; mistakes == maxMistakes {
				return errMistakes
			}
		}
	}
}

// outlast waits until the client, which has ended its side, is gone.
func (c *client) outlast(ctx context.Context) error {
	ticker := time.NewTicker(stillThere)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := c.send([]byte("\n")); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// mistake is a request that was not understood, or is not possible; the next may be.
type mistake string

func (m mistake) Error() string { return string(m) }

func mistakef(format string, args ...any) error { return mistake(fmt.Sprintf(format, args...)) }

// command carries out one line.
func (c *client) command(ctx context.Context, line string) error {
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil
	}
	switch words[0] {
	case "PING":
		return c.send([]byte("PONG\n"))
	case "AUTH":
		return c.send([]byte("OK\n")) // there are no tokens yet: everybody may
	case "PUB":
		if len(words) != 2 || words[1] != "commands" {
			return mistakef("expected PUB commands")
		}
		c.service.cfg.Hub.Publish(Key{Kind: Commands})
		return c.send([]byte("OK\n"))
	case "SUB":
		return c.subscribe(ctx, words[1:])
	default:
		return mistakef("%s is no request; there are SUB, PUB, PING and AUTH, in capitals", quoted(words[0]))
	}
}

// quoted is a client's word, fit for a line.
func quoted(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
	return fmt.Sprintf("%.40q", s)
}

// subscribe begins to send events: SUB <prefix or build id>… [SINCE <n>].
func (c *client) subscribe(ctx context.Context, words []string) error {
	if c.reader != nil {
		return mistakef("subscribed already; open another connection for another subscription")
	}
	from := Position{Now: true}
	if i := slices.Index(words, "SINCE"); i >= 0 {
		if i != len(words)-2 {
			return mistakef("expected one number after SINCE, at the end")
		}
		n, err := strconv.ParseUint(words[i+1], 10, 64)
		if err != nil {
			return mistakef("SINCE %s: expected a number", quoted(words[i+1]))
		}
		from = Position{Since: n}
		words = words[:i]
	}
	filter, err := parseFilter(words)
	if err != nil {
		return err
	}
	r, err := c.service.cfg.Feed.Subscribe(ctx, filter, from)
	switch {
	case errors.Is(err, ErrReset):
		return mistake("reset")
	case err != nil:
		return mistakef("the store cannot be read now: %v", err)
	}
	c.reader = r
	if err := c.send(fmt.Appendf(nil, "OK %d %s\n", r.Newest, c.service.cfg.StoreID)); err != nil {
		return err
	}
	c.events.Go(func() {
		defer r.Close()
		c.cancel(c.follow(ctx, r))
	})
	return nil
}

// parseFilter reads topic prefixes and build ids.
func parseFilter(words []string) (Filter, error) {
	var f Filter
	for _, w := range words {
		if id, err := ulid.ParseStrict(w); err == nil {
			f.Builds = append(f.Builds, lifecycle.BuildID(id.String()))
			continue
		}
		if err := CheckTopic(w); err != nil {
			return f, mistakef("%s is neither a topic nor the id of a build: expected a prefix such as build or build.shelved, or * for all", quoted(w))
		}
		f.Topics = append(f.Topics, w)
	}
	if len(words) == 0 {
		return f, mistakef("SUB what? Say SUB * for all, or topics such as build or build.shelved, or the id of a build")
	}
	if err := f.Check(); err != nil {
		return f, mistakef("%v", err)
	}
	return f, nil
}

// follow sends what r reads.
func (c *client) follow(ctx context.Context, r *Reader) error {
	for {
		items, err := r.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it ends for another reason, which the context has
		case errors.Is(err, ErrReset):
			return errReset
		case err != nil:
			return fmt.Errorf("the store cannot be read now: %w", err)
		}
		lines := make([][]byte, len(items))
		for i, it := range items {
			if it.Event == nil {
				lines[i] = fmt.Appendf(nil, "GAP %d %d\n", it.Missed.From, it.Missed.To)
			} else {
				lines[i] = it.Event.Line()
			}
		}
		if err := c.send(lines...); err != nil {
			return err
		}
	}
}

var errReset = errors.New("reset")

// send sends whole lines, or nothing more is ever sent but the last words. A line that
// was begun is kept for them.
func (c *client) send(lines ...[]byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.broken {
		return errSlow
	}
	grace := c.service.cfg.Grace
	if c.ended() {
		grace = lastWords
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(grace)); err != nil {
		return err
	}
	sizes := make([]int, len(lines))
	for i, l := range lines {
		sizes[i] = len(l)
	}
	buffers := net.Buffers(lines)
	n, err := buffers.WriteTo(c.conn)
	if err == nil {
		return nil
	}
	c.broken = true
	for _, size := range sizes {
		if n < int64(size) {
			if n > 0 && len(buffers) > 0 {
				c.rest = bytes.Clone(buffers[0])
			}
			break
		}
		n -= int64(size)
	}
	if isTimeout(err) {
		return errSlow
	}
	return err
}

func (c *client) refuse(format string, args ...any) error {
	text := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, fmt.Sprintf(format, args...))
	return c.send([]byte("ERR " + text + "\n"))
}

// farewell tells the client why it is dropped, if that is not its own doing and it still reads.
func (c *client) farewell(err error) {
	if err == nil || errors.Is(err, io.EOF) {
		return
	}
	if errors.Is(err, context.Canceled) {
		err = errStopping
	}
	c.writing.Lock()
	words := fmt.Appendf(c.rest, "ERR %v\n", err)
	c.writing.Unlock()
	// Whatever comes of it, the connection is closed.
	_ = c.conn.SetWriteDeadline(time.Now().Add(lastWords))
	_, _ = c.conn.Write(words)
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
