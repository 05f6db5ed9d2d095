package api

import (
	"errors"
	"io"

	"holdfast/master/notify"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// Watch streams events in commit order; see the service's comment. A reader
// that is slow only falls behind: what it has not read is read from the store, a
// page at a time, so that next to nothing is kept for it in memory.
func (s *Server) Watch(req *holdfastv1.WatchRequest, stream holdfastv1.ControlService_WatchServer) error {
	var builds []string
	if req.GetBuildId() != "" {
		builds = []string{req.GetBuildId()}
	}
	filter, err := filterOf(req.GetTopics(), builds)
	if err != nil {
		return err
	}
	over, err := s.Follow("events")
	if err != nil {
		return err
	}
	defer over()
	ctx := stream.Context()
	reader, err := s.cfg.Feed.Subscribe(ctx, filter, notify.Position{
		Since: req.GetSince(), Now: req.GetFromNow(), ToNewest: req.GetStopAtNewest(),
	})
	if err != nil {
		return refusal(err)
	}
	defer reader.Close()
	if err := stream.Send(&holdfastv1.WatchResponse{Message: &holdfastv1.WatchResponse_Opened_{
		Opened: &holdfastv1.WatchResponse_Opened{Newest: reader.Newest, StoreId: s.store.ID()},
	}}); err != nil {
		return err
	}
	for {
		items, err := reader.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return refusal(err)
		}
		for _, it := range items {
			if err := s.sendItem(stream, it); err != nil {
				return err
			}
		}
	}
}

func (s *Server) sendItem(stream holdfastv1.ControlService_WatchServer, it notify.Item) error {
	if it.Event == nil {
		return stream.Send(&holdfastv1.WatchResponse{Message: &holdfastv1.WatchResponse_Missed_{
			Missed: &holdfastv1.WatchResponse_Missed{From: it.Missed.From, To: it.Missed.To},
		}})
	}
	m, err := encodeEvent(&it.Event.Event)
	if err != nil {
		return rpcerr.New(rpcerr.Internal, "%v", err)
	}
	return stream.Send(&holdfastv1.WatchResponse{Message: &holdfastv1.WatchResponse_Event{Event: m}})
}
