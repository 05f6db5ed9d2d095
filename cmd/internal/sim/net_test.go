package sim

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const echo = "echo:1"

// echoNet is a network with one listener that sends back what it gets.
func echoNet(t *testing.T) *cable {
	n := newNetwork()
	l, err := n.listen(echo)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	c := n.cable("here", rand.New(rand.NewPCG(1, 2)), 10*time.Millisecond)
	t.Cleanup(func() {
		l.Close()
		c.drop()
	})
	return c
}

func dialEcho(t *testing.T, c *cable) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	conn, err := c.dial(ctx, echo)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// say writes text and returns what comes back within a second.
func say(t *testing.T, c net.Conn, text string) (string, error) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(text))
	n, err := io.ReadFull(c, b)
	return string(b[:n]), err
}

func TestNetwork(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, c *cable){
		"echo takes a round trip": func(t *testing.T, c *cable) {
			conn := dialEcho(t, c)
			began := time.Now()
			if got, err := say(t, conn, "hello"); got != "hello" || err != nil {
				t.Fatal(got, err)
			}
			if d := time.Since(began); d < 20*time.Millisecond || d > 41*time.Millisecond {
				t.Errorf("took %v", d)
			}
			conn.Close()
		},
		"cut": func(t *testing.T, c *cable) {
			conn := dialEcho(t, c)
			c.refuse()
			c.drop()
			if _, err := say(t, conn, "hello"); !errors.Is(err, errReset) {
				t.Error(err)
			}
			if _, err := c.dial(t.Context(), echo); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Error(err)
			}
			c.heal()
			dialEcho(t, c)
		},
		"a stall delays": func(t *testing.T, c *cable) {
			conn := dialEcho(t, c)
			c.stall(true, false)
			if _, err := say(t, conn, "hello"); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
				t.Error(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := c.dial(ctx, echo); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			c.heal()
			if got, err := say(t, conn, " you"); got != "hell" || err != nil {
				t.Error(got, err)
			}
		},
		"swallowed connections are silent for ever": func(t *testing.T, c *cable) {
			conn := dialEcho(t, c)
			c.swallow(false, true)
			c.heal()
			if _, err := say(t, conn, "hello"); !isTimeout(err) {
				t.Error(err)
			}
			if got, err := say(t, dialEcho(t, c), "hello"); got != "hello" || err != nil {
				t.Error(got, err)
			}
		},
		"a slow link": func(t *testing.T, c *cable) {
			conn := dialEcho(t, c)
			c.up.limit(10_000)
			began := time.Now()
			go conn.Write(make([]byte, 20_000))
			if _, err := io.ReadFull(conn, make([]byte, 20_000)); err != nil {
				t.Error(err)
			}
			if d := time.Since(began); d < 2*time.Second || d > 2100*time.Millisecond {
				t.Errorf("took %v", d)
			}
		},
		"order over many writes": func(t *testing.T, c *cable) {
			conn := dialEcho(t, c)
			var sent bytes.Buffer
			for i := range 200 {
				sent.Write(bytes.Repeat([]byte{byte(i)}, i+1))
			}
			go conn.Write(sent.Bytes())
			got := make([]byte, sent.Len())
			if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, sent.Bytes()) {
				t.Error("order lost", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, echoNet(t)) })
		})
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
