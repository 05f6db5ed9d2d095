package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
)

const defaultAddr = "127.0.0.1:7400"

// common are the options of commands that talk to a master.
type common struct {
	addr string
	json bool
}

func (c *common) flags(cmd *cobra.Command) {
	addr := os.Getenv("HOLDFAST_ADDR")
	if addr == "" {
		addr = defaultAddr
	}
	cmd.Flags().StringVar(&c.addr, "addr", addr, "`HOST:PORT` of the master's gRPC service; also HOLDFAST_ADDR")
	jsonFlag(cmd, &c.json)
}

func jsonFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "json", false, "print JSON")
}

// dial connects to the master and says so when that takes a while.
func (c *common) dial(ctx context.Context, std stdio) (*client.Client, error) {
	return client.Dial(ctx, client.Config{
		Addr: c.addr,
		Waiting: func(why string) {
			fmt.Fprintf(std.err, "holdfast: waiting for master at %s: %s\n", c.addr, oneLine(why))
		},
	})
}

// withMaster runs a command that asks a master something.
func (c *common) withMaster(ctx context.Context, std stdio, run func(context.Context, *client.Client) error) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	m, err := c.dial(ctx, std)
	if err != nil {
		return err
	}
	defer m.Close()
	return run(ctx, m)
}

// wants returns a check for exactly the named arguments.
func wants(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == len(names):
			return nil
		case len(names) == 0:
			return fmt.Errorf("%s takes no arguments, got %q", cmd.CommandPath(), args)
		default:
			return fmt.Errorf("%s wants %s, got %d arguments", cmd.CommandPath(), strings.Join(names, " and "), len(args))
		}
	}
}

// buildID checks an id that a person typed or pasted. What cannot be an id is
// the id of no build.
func buildID(text string) (string, error) {
	id := strings.ToUpper(strings.TrimSpace(text))
	if _, err := ulid.ParseStrict(id); err != nil {
		return "", fmt.Errorf("build %s: %w: an id has 26 characters, as `holdfast ls` shows them", strconv.Quote(cut(text, 40)), errNotFound)
	}
	return id, nil
}

// pairs reads the values of a flag that is given as KEY=VALUE.
func pairs(flag string, values []string) (map[string]string, error) {
	m := make(map[string]string, len(values))
	for _, v := range values {
		key, value, ok := strings.Cut(v, "=")
		if !ok || key == "" {
			return nil, badUsage("--%s wants KEY=VALUE, got %q", flag, v)
		}
		m[key] = value
	}
	return m, nil
}

// bytesValue is a flag for a number of bytes: 1048576, 500MB, 2GiB.
type bytesValue int64

// Set implements pflag.Value.
func (b *bytesValue) Set(text string) error {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return errors.New("want a number of bytes such as 1048576, 500MB or 2GiB")
	}
	*b = bytesValue(n)
	return nil
}

// String implements pflag.Value.
func (b *bytesValue) String() string { return sizeText(int64(*b)) }

// Type implements pflag.Value.
func (b *bytesValue) Type() string { return "BYTES" }

// logFlag adds --log-level; the returned function makes the logger.
func logFlag(cmd *cobra.Command, std stdio) func() (*slog.Logger, error) {
	level := cmd.Flags().String("log-level", "info", "debug, info, warn or error")
	return func() (*slog.Logger, error) {
		var l slog.Level
		if err := l.UnmarshalText([]byte(*level)); err != nil {
			return nil, badUsage("--log-level wants debug, info, warn or error, got %q", *level)
		}
		return slog.New(slog.NewTextHandler(std.err, &slog.HandlerOptions{Level: l})), nil
	}
}

// who names the person at the keyboard, for the history.
func who() string {
	for _, key := range []string{"USER", "LOGNAME"} {
		if name := os.Getenv(key); name != "" {
			return name
		}
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "uid " + strconv.Itoa(os.Getuid())
}

// loopback reports whether only this machine can reach an address to listen on.
func loopback(addr string) (bool, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false, badUsage("%q is not an address HOST:PORT", addr)
	}
	if host == "localhost" {
		return true, nil
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback(), nil
}

// storeFlag adds --store. Its default may hold a password, so that help does not show it.
func storeFlag(cmd *cobra.Command, url *string, usage string) {
	f := cmd.Flags()
	f.StringVar(url, "store", os.Getenv("HOLDFAST_STORE"), usage)
	f.Lookup("store").DefValue = ""
}
