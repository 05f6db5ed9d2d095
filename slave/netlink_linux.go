package slave

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// watchNetwork signals changed when an interface of this machine, an address
// or a route changes, until ctx ends. A signal is a hint that dialling may
// succeed now; it may be lost or come for nothing. So where the system does not
// let us listen the slave lives without, and dials when its back-off says so.
func watchNetwork(ctx context.Context, changed chan<- struct{}, logger *slog.Logger) error {
	f, err := listenNetwork()
	if err != nil {
		logger.Warn("not watching the network", "err", err)
		return nil
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	defer f.Close()
	buf := make([]byte, 16<<10)
	for {
		// What the message says does not matter. ENOBUFS means that some were
		// dropped: something changed.
		if _, err := f.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			if ctx.Err() != nil {
				return nil
			}
			logger.Warn("no longer watching the network", "err", err)
			return nil
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

func listenNetwork() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("netlink: bind: %w", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil // non-blocking: the runtime's poller waits for it
}
