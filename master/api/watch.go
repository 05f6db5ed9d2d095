package api

import (
	"strings"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

const (
	eventPage = 16 // events; what one reader may hold in memory
	maxTopics = 100
)

// Watch streams events in commit order; see the service's comment. A reader
// that is slow only falls behind: events are read from the store, a few at a
// time, so that next to nothing is kept for it in memory.
func (s *Server) Watch(req *holdfastv1.WatchRequest, stream holdfastv1.ControlService_WatchServer) error {
	if len(req.GetTopics()) > maxTopics {
		return rpcerr.New(rpcerr.Invalid, "%d topics; at most %d", len(req.GetTopics()), maxTopics)
	}
	for _, topic := range req.GetTopics() {
		if err := checkTopic(topic); err != nil {
			return err
		}
	}
	if req.GetBuildId() != "" {
		if _, err := buildID(req.GetBuildId()); err != nil {
			return err
		}
	}
	over, err := s.follow("events")
	if err != nil {
		return err
	}
	defer over()
	ctx := stream.Context()
	// Subscribed before the first read: what is committed after that read
	// leaves a hint.
	hints := s.cfg.Hub.Subscribe(notify.Key{Kind: notify.Events})
	defer hints.Close()
	newest, err := s.store.NewestEvent(ctx)
	if err != nil {
		return refusal(err)
	}
	since := req.GetSince()
	if req.GetFromNow() {
		since = newest
	}
	if since > newest {
		return rpcerr.New(rpcerr.WrongStore, "event %d was never here, the newest is %d: the store was restored, start over", since, newest)
	}
	if err := stream.Send(&holdfastv1.WatchResponse{Message: &holdfastv1.WatchResponse_Opened_{
		Opened: &holdfastv1.WatchResponse_Opened{Newest: newest, StoreId: s.store.ID()},
	}}); err != nil {
		return err
	}
	for {
		events, err := s.store.Events(ctx, since, eventPage)
		if err != nil {
			return refusal(err)
		}
		for i := range events {
			if req.GetStopAtNewest() && events[i].N > newest {
				return nil
			}
			// Numbers are consecutive: what is skipped is no longer kept.
			if n := events[i].N; n > since+1 {
				if err := stream.Send(&holdfastv1.WatchResponse{Message: &holdfastv1.WatchResponse_Missed_{
					Missed: &holdfastv1.WatchResponse_Missed{From: since + 1, To: n - 1},
				}}); err != nil {
					return err
				}
			}
			since = events[i].N
			if !selected(req, &events[i]) {
				continue
			}
			m, err := encodeEvent(&events[i])
			if err != nil {
				return rpcerr.New(rpcerr.Internal, "%v", err)
			}
			if err := stream.Send(&holdfastv1.WatchResponse{Message: &holdfastv1.WatchResponse_Event{Event: m}}); err != nil {
				return err
			}
		}
		if req.GetStopAtNewest() && since >= newest {
			return nil
		}
		if len(events) == eventPage {
			continue
		}
		if err := s.wait(ctx, hints, s.cfg.SafetyPoll); err != nil {
			return err
		}
	}
}

// selected reports whether the request asks for e. A topic prefix ends at a
// dot: "build" selects "build.queued", not "builder.x".
func selected(req *holdfastv1.WatchRequest, e *lifecycle.Event) bool {
	if id := req.GetBuildId(); id != "" && id != string(e.Build) {
		return false
	}
	if len(req.GetTopics()) == 0 {
		return true
	}
	for _, t := range req.GetTopics() {
		if t == "*" || e.Topic == t || strings.HasPrefix(e.Topic, t+".") {
			return true
		}
	}
	return false
}
