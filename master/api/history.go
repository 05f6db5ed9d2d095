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
	h := history{server: s, build: r.Build.ID, holders: make(map[lifecycle.AttemptID]holder)}
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
	// holders are the slaves that have an attempt of the build, or may come back with one.
	holders map[lifecycle.AttemptID]holder
}

type holder struct {
	slave string
	lost  bool
}

// holds reports whether a slave is one of the holders.
func (h *history) holds(slave string) bool {
	for _, o := range h.holders {
		if o.slave == slave {
			return true
		}
	}
	return false
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
	for _, o := range h.holders {
		names[o.slave] = true
	}
	for i := range own {
		if own[i].Topic == lifecycle.TopicAttemptAssigned || own[i].Topic == lifecycle.TopicAttemptAdopted {
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
			if h.holds(e.Slave) {
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
// is over. Who has lost one may come back with it, until another has taken its place or the
// build is over.
func (h *history) count(e *lifecycle.Event) {
	switch e.Topic {
	case lifecycle.TopicAttemptAssigned, lifecycle.TopicAttemptAdopted:
		h.holders[e.Attempt] = holder{slave: e.Slave}
	case lifecycle.TopicAttemptLost:
		h.holders[e.Attempt] = holder{slave: e.Slave, lost: true}
	case lifecycle.TopicAttemptSucceeded, lifecycle.TopicAttemptFailed, lifecycle.TopicAttemptCancelled,
		lifecycle.TopicAttemptWithdrawn, lifecycle.TopicAttemptRefused, lifecycle.TopicAttemptSuperseded, lifecycle.TopicAttemptExpired:
		delete(h.holders, e.Attempt)
	case lifecycle.TopicBuildSucceeded, lifecycle.TopicBuildFailed, lifecycle.TopicBuildCancelled:
		for id, o := range h.holders {
			if o.lost {
				delete(h.holders, id)
			}
		}
	}
}
