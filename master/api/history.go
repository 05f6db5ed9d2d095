package api

import (
	"cmp"
	"context"
	"slices"

	"holdfast/master/lifecycle"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// historyPage bounds the events that are in memory for one reader of a history, of the
// build and of each slave that has an attempt of it.
const historyPage = 200

// GetHistory streams what happened to a build, and to slaves while they had it.
func (s *Server) GetHistory(req *holdfastv1.GetHistoryRequest, stream holdfastv1.ControlService_GetHistoryServer) error {
	ctx := stream.Context()
	r, err := s.record(ctx, req.GetBuildId())
	if err != nil {
		return err
	}
	over, err := s.Follow("history")
	if err != nil {
		return err
	}
	defer over()
	newest, err := s.store.NewestEvent(ctx)
	if err != nil {
		return refusal(err)
	}
	h := history{server: s, build: r.Build.ID, slaves: make(map[string]int)}
	for at := uint64(0); at < newest; {
		var page []lifecycle.Event
		if page, at, err = h.page(ctx, at, newest); err != nil {
			return refusal(err)
		}
		for i := range page {
			m, err := encodeEvent(&page[i])
			if err != nil {
				return rpcerr.New(rpcerr.Internal, "%v", err)
			}
			if err := stream.Send(&holdfastv1.GetHistoryResponse{Event: m}); err != nil {
				return err
			}
		}
	}
	return nil
}

// history reads a build's events in order, with those of its slaves among them.
type history struct {
	server *Server
	build  lifecycle.BuildID
	slaves map[string]int // how many live attempts of the build each has
}

// page returns what happened after at, and up to which number that is all.
func (h *history) page(ctx context.Context, at, newest uint64) ([]lifecycle.Event, uint64, error) {
	own, err := h.server.store.BuildEvents(ctx, h.build, at, historyPage)
	if err != nil {
		return nil, 0, err
	}
	to := newest
	if len(own) == historyPage {
		to = own[len(own)-1].N
	}
	// Slaves that have it now, or come to have it on this page.
	names := make(map[string]bool)
	for name := range h.slaves {
		names[name] = true
	}
	for i := range own {
		if own[i].Topic == lifecycle.TopicAttemptAssigned {
			names[own[i].Slave] = true
		}
	}
	var others []lifecycle.Event
	for name := range names {
		events, err := h.server.store.SlaveEvents(ctx, name, at, to, historyPage)
		if err != nil {
			return nil, 0, err
		}
		if len(events) == historyPage {
			to = events[len(events)-1].N // the rest is for the next page
		}
		others = append(others, events...)
	}
	all := slices.Concat(own, others)
	slices.SortFunc(all, func(a, b lifecycle.Event) int { return cmp.Compare(a.N, b.N) })
	list := all[:0]
	for _, e := range all {
		switch {
		case e.N > to:
		case e.Build == "":
			if h.slaves[e.Slave] > 0 {
				list = append(list, e)
			}
		default:
			h.count(&e)
			list = append(list, e)
		}
	}
	return list, to, nil
}

// count keeps track of who has an attempt of the build: from when it is assigned until it
// is over. One that is lost may come back.
func (h *history) count(e *lifecycle.Event) {
	switch e.Topic {
	case lifecycle.TopicAttemptAssigned, lifecycle.TopicAttemptAdopted:
		h.slaves[e.Slave]++
	case lifecycle.TopicAttemptSucceeded, lifecycle.TopicAttemptFailed, lifecycle.TopicAttemptCancelled,
		lifecycle.TopicAttemptWithdrawn, lifecycle.TopicAttemptRefused, lifecycle.TopicAttemptLost:
		if h.slaves[e.Slave]--; h.slaves[e.Slave] <= 0 {
			delete(h.slaves, e.Slave)
		}
	}
}
