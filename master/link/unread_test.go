package link

import (
	"io"
	"testing"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// Messages that belong to no attempt count while they make a loop; a few
// accidents in the months that an agent runs do not lock it out (P-refuse P29).
func TestUnreadableMessagesOfMonths(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	bad := rpcerr.New(rpcerr.BadFrame, "a message that cannot be decoded")
	hello := &holdfastv1.Hello{InstanceId: "i", Incarnation: 3, StartId: "s"}
	var u unread
	note := func(after time.Duration, err error) {
		now = now.Add(after)
		u.note(now, "i", startOf(3, "s"), err)
	}
	for range 500 {
		note(unreadWindow/(unreadLimit-1)+1, bad)
		if err := u.refuse(hello); err != nil {
			t.Fatalf("refused for accidents: %v", err)
		}
	}
	note(unreadWindow, bad)
	for range unreadLimit - 2 {
		note(time.Minute, bad)
		note(time.Second, io.ErrUnexpectedEOF)
		note(time.Second, rpcerr.New(rpcerr.BadFrame, "of an attempt").With("attempt", "a"))
	}
	if err := u.refuse(hello); err != nil {
		t.Fatalf("refused before the limit: %v", err)
	}
	note(time.Minute, bad)
	for range 3 {
		if err := u.refuse(hello); !rpcerr.Is(err, rpcerr.BadHello) {
			t.Fatalf("in a loop: %v", err)
		}
		note(24*time.Hour, bad) // a session of old that ends late changes nothing
	}
	hello.Incarnation++
	if err := u.refuse(hello); err != nil {
		t.Errorf("another start: %v", err)
	}
}
