package link

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"holdfast/master/lifecycle"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// A message that names no place in a stream, because it cannot be read or has
// no business in a session, cannot be counted against an attempt. It is counted
// against the agent that sent it (P-refuse).

const (
	// unreadLimit is how many sessions of one agent may end by such a message
	// within unreadWindow before its Hello is refused.
	unreadLimit = 8
	// unreadWindow tells a loop from accidents that are weeks apart. An agent that
	// loops comes back within a minute.
	unreadWindow = time.Hour
	// unreadAgents bounds the agents that are remembered. Each of them has been
	// admitted, so that the store knows as many.
	unreadAgents = 10_000
)

// Codec makes of inner the codec that a gRPC server with this service must use.
// It differs for a slave's message that cannot be decoded, or has too many parts
// to be: gRPC would end the stream by itself, with a status that is no refusal. It
// arrives as one that says so.
func Codec(inner encoding.CodecV2) encoding.CodecV2 { return codec{inner} }

type codec struct{ encoding.CodecV2 }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	req, ok := v.(*holdfastv1.ConnectRequest)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	raw := data.MaterializeToBuffer(mem.DefaultBufferPool()) // inner would do it too
	defer raw.Free()
	if !tooManyParts(raw.ReadOnlyData(), req.ProtoReflect().Descriptor(), maxParts) {
		if err := c.CodecV2.Unmarshal(mem.BufferSlice{raw}, v); err == nil {
			return nil
		}
	}
	req.Reset()
	req.ProtoReflect().SetUnknown(notDecoded)
	return nil // the receiver finds the mark and refuses
}

// notDecoded is what Codec makes of a message that cannot be decoded: an empty
// group of the highest field number there is. A slave that sends just this means
// nothing better.
var notDecoded = protowire.AppendTag(protowire.AppendTag(nil,
	protowire.MaxValidNumber, protowire.StartGroupType),
	protowire.MaxValidNumber, protowire.EndGroupType)

// checkDecoded refuses what Codec could not decode.
func checkDecoded(req *holdfastv1.ConnectRequest) error {
	if req.GetMessage() == nil && bytes.Equal(req.ProtoReflect().GetUnknown(), notDecoded) {
		return rpcerr.New(rpcerr.BadFrame, "a message that cannot be decoded, or of more than %d parts", maxParts)
	}
	return nil
}

// received turns a failed Recv into the refusal it stands for; what is only a
// broken stream stays as it is. The slave is told the same by gRPC, in its words.
func received(err error) error {
	switch status.Code(err) {
	case codes.ResourceExhausted:
		return rpcerr.New(rpcerr.TooLarge, "a message larger than this master takes in: %s", status.Convert(err).Message())
	case codes.Internal, codes.Unimplemented:
		return rpcerr.New(rpcerr.BadFrame, "a message that cannot be read: %s", status.Convert(err).Message())
	default:
		return err
	}
}

// unread counts sessions that ended by a message without a place. Its counts
// are of one start of an agent: another one may be another program. They are
// not durable, so that a restart of the master begins anew as well.
type unread struct {
	mu     sync.Mutex
	agents map[lifecycle.InstanceID]unreadCount // guarded by mu
}

type unreadCount struct {
	start string      // of the agent
	at    []time.Time // of the last ones, at most unreadLimit; those in the past do not count
	why   string      // of the last one
}

// startOf names one start of an agent. One that tells no start id is known by
// its count of starts.
func startOf(incarnation uint64, startID string) string {
	return fmt.Sprintf("%d/%s", incarnation, startID)
}

// full reports whether the agent is refused: from here on, whatever the time.
func (c *unreadCount) full() bool { return len(c.at) >= unreadLimit }

// note counts the end of a session if such a message was the reason.
func (u *unread) note(now time.Time, id lifecycle.InstanceID, start string, err error) {
	refused, ok := rpcerr.From(err)
	if !ok || refused.Meta["attempt"] != "" || !rpcerr.Is(err, rpcerr.BadFrame, rpcerr.TooLarge) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	count := u.agents[id]
	if count.start != start {
		count = unreadCount{start: start}
	}
	if count.full() {
		return
	}
	recent := []time.Time{now} // a new one: the old is not shared
	for _, t := range count.at {
		if now.Sub(t) < unreadWindow {
			recent = append(recent, t)
		}
	}
	count.at = recent
	count.why = refused.Message
	if u.agents == nil {
		u.agents = make(map[lifecycle.InstanceID]unreadCount)
	}
	for other := range u.agents {
		if len(u.agents) < unreadAgents {
			break
		}
		delete(u.agents, other) // any: it gets as many tries again
	}
	u.agents[id] = count
}

// refuse ends the loop of an agent that comes back with such a message for
// ever.
func (u *unread) refuse(h *holdfastv1.Hello) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	count := u.agents[lifecycle.InstanceID(h.GetInstanceId())]
	if !count.full() || count.start != startOf(h.GetIncarnation(), h.GetStartId()) {
		return nil
	}
	return rpcerr.New(rpcerr.BadHello,
		"Hello refused: %d sessions of this agent ended within %v by a message that belongs to no attempt (the last: %s); restart the agent, with another version if it happens again",
		len(count.at), unreadWindow, count.why)
}
