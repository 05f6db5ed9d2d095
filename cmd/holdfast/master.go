package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"holdfast/master"
	"holdfast/master/store"
	"holdfast/master/store/sqlite"
)

// masterOptions are the flags of master.
type masterOptions struct {
	*global
	data      string
	listen    string
	http      string
	addrFile  string
	lostAfter time.Duration
}

func newMaster(g *global) *cobra.Command {
	o := &masterOptions{global: g}
	cmd := &cobra.Command{
		Use:   "master --data DIR",
		Short: "Run a master",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := g.logger()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), log, nil)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", "directory of the store, DIR/holdfast.db (required)")
	f.StringVar(&o.listen, "listen", defaultAddr, "address for slaves and for the command line")
	f.StringVar(&o.http, "http", "127.0.0.1:7480", "address for HTTP; empty: none")
	f.DurationVar(&o.lostAfter, "lost-after", master.DefaultLostAfter, "how long a slave may be away before its builds may run elsewhere")
	f.StringVar(&o.addrFile, "addr-file", "", "write grpc=HOST:PORT and http=HOST:PORT here once both listen")
	return cmd
}

// run runs a master until ctx ends. ready, if not nil, is told the gRPC address
// once it listens.
func (o *masterOptions) run(ctx context.Context, log *slog.Logger, ready func(addr string)) (err error) {
	if o.data == "" {
		return usage(errors.New("master needs --data DIR"))
	}
	if o.lostAfter <= 0 {
		return usage(errors.New("--lost-after must be positive"))
	}
	warnIfOpen(log, "--listen", o.listen)
	listener, err := listen("--listen", o.listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	var web net.Listener
	if o.http != "" {
		warnIfOpen(log, "--http", o.http)
		if web, err = listen("--http", o.http); err != nil {
			return err
		}
		defer web.Close()
	}
	st, err := sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(o.data, "holdfast.db"), Logger: log})
	if errors.Is(err, store.ErrInUse) {
		return fmt.Errorf("%w: another master runs on %s: %w", errRefused, o.data, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	m, err := master.New(master.Config{
		ID: ulid.Make().String(), Version: version, Store: st, SoleOwner: true,
		Listener: listener, HTTP: web, LostAfter: o.lostAfter, Logger: log,
	})
	if err != nil {
		return err
	}
	if o.addrFile != "" {
		if err := writeAddrs(o.addrFile, listener, web); err != nil {
			return err
		}
	}
	if ready != nil {
		ready(listener.Addr().String())
	}
	return m.Run(ctx)
}

// listen opens a TCP port; one that is taken is a refusal with one clear line.
func listen(flag, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: %s %s is in use: another holdfast? choose another port", errRefused, flag, addr)
	}
	if err != nil {
		return nil, usage(fmt.Errorf("%s: %w", flag, err))
	}
	return l, nil
}

// warnIfOpen warns of an address that others can reach: there is no TLS yet.
func warnIfOpen(log *slog.Logger, flag, addr string) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return
	}
	if ip := net.ParseIP(host); host == "localhost" || (ip != nil && ip.IsLoopback()) {
		return
	}
	log.Warn(flag+" is not a loopback address, and there is no TLS and no login yet: whoever reaches this port can run commands on every slave", "addr", addr)
}

// writeAddrs tells the addresses to whoever waits for path, in one go.
func writeAddrs(path string, grpc, web net.Listener) error {
	text := "grpc=" + grpc.Addr().String() + "\n"
	if web != nil {
		text += "http=" + web.Addr().String() + "\n"
	}
	temp := path + ".tmp"
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		return fmt.Errorf("--addr-file: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("--addr-file: %w", err)
	}
	return nil
}
