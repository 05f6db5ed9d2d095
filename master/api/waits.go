package api

import (
	"context"
	"time"

	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// GetWaits tells how long attempts have waited; see the service's comment.
func (s *Server) GetWaits(ctx context.Context, req *holdfastv1.GetWaitsRequest) (*holdfastv1.GetWaitsResponse, error) {
	if req.GetBuildId() != "" {
		return s.waitsOf(ctx, req.GetBuildId())
	}
	f := store.WaitFilter{By: store.WaitGroup(req.GetBy())}
	switch f.By {
	case store.WaitsInAll, store.WaitsByName, store.WaitsBySlave, store.WaitsByCause:
	default:
		return nil, rpcerr.New(rpcerr.Invalid, "waits by %.40q: there are name, slave and cause", req.GetBy())
	}
	if us := req.GetSinceUs(); us > 0 {
		f.Since = time.UnixMicro(us)
	}
	stats, err := s.store.WaitStats(ctx, f)
	if err != nil {
		return nil, refusal(err)
	}
	resp := &holdfastv1.GetWaitsResponse{}
	for _, w := range stats {
		resp.Groups = append(resp.Groups, &holdfastv1.WaitGroup{
			Key: w.Key, Attempts: uint64(w.Count), TotalUs: w.Total.Microseconds(),
			P50Us: w.P50.Microseconds(), P95Us: w.P95.Microseconds(), MaxUs: w.Max.Microseconds(),
		})
	}
	return resp, nil
}

// waitsOf is the ledger of one build.
func (s *Server) waitsOf(ctx context.Context, build string) (*holdfastv1.GetWaitsResponse, error) {
	r, err := s.record(ctx, build)
	if err != nil {
		return nil, err
	}
	waits, err := s.store.Waits(ctx, r.Build.ID)
	if err != nil {
		return nil, refusal(err)
	}
	resp := &holdfastv1.GetWaitsResponse{}
	for _, w := range waits {
		resp.Intervals = append(resp.Intervals, &holdfastv1.WaitInterval{
			Cause: string(w.Cause), FromUs: micros(w.From), ToUs: micros(w.To), Attempt: uint32(w.Attempt),
		})
	}
	return resp, nil
}
