package slave

import (
	"context"
	"net"
)

// notSentLowat keeps what the kernel holds of unsent bytes small: what waits
// there can no longer be overtaken by a status update. TCP's own window stays
// as wide as the link needs.
const notSentLowat = 32 << 10

// dialTCP is the default of Config.Dial. Its time limit is ctx's.
func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Control: controlSocket}
	return d.DialContext(ctx, "tcp", addr)
}
